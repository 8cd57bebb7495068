"""The streaming ensemble on a real tritonserver: what it says is what the model says of the whole audio."""

import asyncio
import itertools
import random
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from commands import run
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ko_asr.client.streaming import AsyncStreamingClient
from ko_asr.errors import UserError
from ko_asr.recognition.streaming import StreamingRecognizer
from ko_asr.runtime.ctc import collapse
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.stream_table import StreamTable
from ko_asr.serving.server import TritonServer, is_alive, served_ensembles

ROOT = Path(__file__).resolve().parents[2]
WHOLE = StreamOptions(endpointing=None)
Clips = list[np.ndarray]


@pytest.fixture(scope="module")
def server(streaming_repository: Path) -> Iterator[TritonServer]:
    with TritonServer(streaming_repository, ROOT / ".server") as running:
        yield running


@pytest.fixture(scope="module")
def nemo(streaming_model: Path):
    from ko_asr.models.nemo_file import load_exportable_model

    return load_exportable_model(streaming_model)


@pytest.fixture(scope="module")
def engine(streaming_model: Path) -> StreamingRecognizer:
    return StreamingRecognizer.load(streaming_model, look_ahead=6, time_to_live=None)


def full_forward(model, clips: Sequence[np.ndarray], look_ahead: int) -> list[str]:
    """NeMo's greedy text of whole utterances, spelled by its own tokenizer."""
    import torch

    model.encoder.set_default_att_context_size([70, look_ahead])
    texts = []
    for clip in clips:
        with torch.inference_mode():
            log_probs, count, best = model(
                input_signal=torch.from_numpy(clip)[None], input_signal_length=torch.tensor([len(clip)])
            )
        tokens = collapse(best[0, : int(count)].numpy(), log_probs.shape[-1] - 1)
        texts.append(model.tokenizer.ids_to_text([token.id for token in tokens]))
    return texts


def stream_all(
    url: str, clips: Sequence[np.ndarray], model: str, options: StreamOptions | None
) -> list[list[Result]]:
    """Results of clips that are streamed side by side, in packets of any size."""
    sizes = random.Random(0)

    async def one(client: AsyncStreamingClient, clip: np.ndarray, room: asyncio.Semaphore) -> list[Result]:
        async with room, await client.open(options) as stream:
            position = 0
            while position < len(clip):
                size = sizes.choice((1, 160, 999, 4480, 30_000))
                await stream.send(clip[position : position + size])
                position += size
            await stream.finish()
            return [result async for result in stream]

    async def everything() -> list[list[Result]]:
        room = asyncio.Semaphore(24)
        async with AsyncStreamingClient(url, model=model, timeout=60.0) as client:
            return await asyncio.gather(*(one(client, clip, room) for clip in clips))

    return asyncio.run(everything())


def finals(results: Sequence[Result]) -> list[str]:
    return [result.text for result in results if result.is_final]


@pytest.mark.parametrize(
    ("model", "look_ahead", "every"), [("asr_streaming", 6, 1), ("asr_streaming_1", 1, 5)]
)
def test_served_text_is_that_of_the_full_forward(
    server: TritonServer, nemo, clips: Clips, model: str, look_ahead: int, every: int
) -> None:
    chosen = clips[::every]
    wanted = full_forward(nemo, chosen, look_ahead)
    served = stream_all(server.url, chosen, model, WHOLE)
    assert [finals(results) for results in served] == [[text] for text in wanted]
    assert sum(map(len, wanted)) > 10 * len(wanted)  # it did say something


def test_end_points_and_words_are_those_of_the_engine(
    server: TritonServer, engine: StreamingRecognizer, clips: Clips
) -> None:
    pause = np.zeros(24_000, np.float32)
    speech = [
        np.concatenate([*(part for clip in clips[k : k + 3] for part in (clip, pause))]) for k in (0, 3)
    ]
    for results, audio in zip(stream_all(server.url, speech, "asr_streaming", None), speech, strict=True):
        with engine.open(endpointing=EndpointRules()) as session:
            wanted = [*session.push(audio), *session.flush()]
        mine, theirs = ([r for r in some if r.is_final] for some in (results, wanted))
        assert len(mine) >= 3
        assert [r.text for r in mine] == [r.text for r in theirs]
        found, expected = ([w for r in some for w in r.words] for some in (mine, theirs))
        assert [(w.text, w.start_ms, w.end_ms) for w in found] == [
            (w.text, w.start_ms, w.end_ms) for w in expected
        ]
        assert np.allclose([w.confidence for w in found], [w.confidence for w in expected], atol=1e-3)


def test_partials_are_stable_as_far_as_they_say(server: TritonServer, clips: Clips) -> None:
    for results in stream_all(server.url, clips[:24], "asr_streaming_1", WHOLE):
        assert len(results) > 2
        for before, after in itertools.pairwise(results):
            assert after.text[: before.stable] == before.text[: before.stable]


def test_keywords_reach_the_search(server: TritonServer, engine: StreamingRecognizer, clips: Clips) -> None:
    from ko_asr.runtime.beam import BeamDecoder
    from ko_asr.runtime.ctc_decoder import DecoderSettings
    from ko_asr.runtime.keywords import parse_keywords

    options = StreamOptions(endpointing=None, keywords=("도서관:5", "시청:-2"))
    contract = engine.contract
    for results, clip in zip(
        stream_all(server.url, clips[:8], "asr_streaming", options), clips[:8], strict=True
    ):
        settings = DecoderSettings(
            contract.text_vocabulary(), contract.blank_id, 1000 * contract.frame_seconds
        )
        decoder = BeamDecoder(settings, keywords=parse_keywords(options.keywords))
        with engine.open(decoder) as session:
            wanted = [*session.push(clip), *session.flush()]
        assert finals(results) == finals(wanted)


class Raw:
    """Requests as a client without our library would send them."""

    def __init__(self, url: str, contract: StreamingContract) -> None:
        import tritonclient.grpc as triton

        self.triton, self.client, self.contract = triton, triton.InferenceServerClient(url), contract

    def __call__(self, sequence: int, audio: np.ndarray, start=False, end=False, **more: object) -> list[str]:
        tensors = {"audio": (audio[None], "FP32")}
        if "rate" in more:
            tensors["sample_rate"] = (np.array([[more["rate"]]], np.int32), "INT32")
        if "options" in more:
            tensors["options"] = (np.array([[str(more["options"]).encode()]], np.object_), "BYTES")
        inputs = []
        for name, (array, kind) in tensors.items():
            inputs.append(self.triton.InferInput(name, list(array.shape), kind))
            inputs[-1].set_data_from_numpy(array)
        answer = self.client.infer(
            "asr_streaming", inputs, sequence_id=sequence, sequence_start=start, sequence_end=end
        )
        return [text.decode() for text in answer.as_numpy("text")[0]]

    def refused(self, *args: object, **more: object) -> str:
        with pytest.raises(self.triton.InferenceServerException) as caught:
            self(*args, **more)
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
        return caught.value.message()


@pytest.fixture(scope="module")
def raw(server: TritonServer) -> Raw:
    return Raw(server.url, StreamingContract.load(server.repository / "asr_streaming" / "1"))


def test_bad_requests_are_named_and_end_only_their_own_stream(raw: Raw, nemo, clips: Clips) -> None:
    contract, clip = raw.contract, clips[0]
    first, shift = contract.first_samples, contract.shift_samples
    good = np.zeros(first, np.float32)
    bad: list[tuple[str, np.ndarray, dict]] = [
        ("must bring the audio of one chunk", good[:-1], {}),
        ("must bring the audio of one chunk", np.zeros(first + shift + 1, np.float32), {}),
        ("at most", np.zeros(contract.end_samples + 1, np.float32), {"end": True}),
        ("NaN", np.full(first, np.nan, np.float32), {}),
        ("scale the samples", np.full(first, 1e30, np.float32), {}),
        ("8000 Hz", good, {"rate": 8000}),
        ("not JSON", good, {"options": "{"}),
        ("endpointing, keywords", good, {"options": '{"beam": 4}'}),
        ("must be positive", good, {"options": '{"endpointing": {"max_utterance_ms": 0}}'}),
        ("keyword", good, {"options": '{"keywords": ["철수:9"]}'}),
    ]
    # A good stream goes on between them.
    wanted = full_forward(nemo, [clip], 6)[0]
    said, index = raw(1, clip[:first], start=True, options='{"endpointing": null}'), 0
    for sequence, (reason, audio, more) in enumerate(bad, start=1000):
        assert reason in raw.refused(sequence, audio, start=True, **more)
        if "end" not in more:
            again = raw.refused(sequence, np.zeros(shift, np.float32))  # the stream stays dead
            assert "no such stream" in again or "interrupted" in again
            raw.refused(sequence, good[:0], end=True)
        if len(clip) - shift * (index + 1) > contract.end_samples:
            start = contract.chunk_samples(index)
            said, index = raw(1, clip[start : start + shift]), index + 1
    while len(clip) - shift * (index + 1) > contract.end_samples:
        start = contract.chunk_samples(index)
        said, index = raw(1, clip[start : start + shift]), index + 1
    said = raw(1, clip[contract.chunk_samples(index) :], end=True)
    assert said == [wanted]


def test_streams_begin_and_end_and_do_not_begin_twice(raw: Raw, clips: Clips) -> None:
    first = raw.contract.first_samples
    assert "START" in raw.refused(7, clips[0][:first])
    raw(7, clips[0][:first], start=True)
    assert "draw ids at random" in raw.refused(7, clips[0][:first], start=True)
    raw(7, clips[0][:0], end=True)
    assert "START" in raw.refused(7, clips[0][:first])
    for silence in (np.zeros(0, np.float32), np.zeros(1, np.float32), np.zeros(159, np.float32)):
        assert raw(8, silence, start=True, end=True) == [""]


def test_both_kinds_of_ensemble_in_one_repository(
    demo, streaming_repository: Path, streaming_model: Path, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(demo.repository, repository)
    shutil.copytree(streaming_repository, repository, dirs_exist_ok=True)
    shutil.copytree(repository / "asr_streaming_1", repository / "asr_streaming_13")
    command = "export/to_triton.py", f"model={streaming_model}", f"repository={repository}"
    done = run(*command, "look_aheads=1")
    assert done.returncode == 0, done.stderr
    assert "chunks of 80 ms" in done.stdout
    assert re.search(r"a stream keeps [\d.]+ MB, 128 streams \d+ MB", done.stdout)
    # The other look-aheads belonged to an earlier export.
    assert served_ensembles(repository) == ["asr", "asr_streaming"]
    with TritonServer(repository, ROOT / ".server") as server:
        assert is_alive(server.url, repository)
    for name in ("저장소", "my models", "models(1)"):  # Triton itself would wait for ever, or load nothing
        repository = repository.rename(tmp_path / name)
        with (
            pytest.raises(UserError, match="a path of ASCII letters"),
            TritonServer(repository, ROOT / ".server"),
        ):
            pass
    gate = [f"gate_manifest={demo.manifests['dev']}", "gate_utterances=2", "max_cer_rise=-1"]
    for options, reason in (
        (["look_aheads=5"], "no look-ahead of 5"),
        (["precision=int8", *gate], "error: int8 costs too much: CER rise, 2 utterances"),
    ):
        before = sorted(repository.rglob("*"))
        done = run(*command, *options)
        assert done.returncode == 2 and sorted(repository.rglob("*")) == before
        assert reason in done.stderr and "Traceback" not in done.stderr


def test_a_chunk_waits_a_twentieth_of_itself_for_others(streaming_repository: Path) -> None:
    for name, chunk_us in (("asr_streaming_encoder", 280_000), ("asr_streaming_encoder_1", 80_000)):
        text = (streaming_repository / name / "config.pbtxt").read_text(encoding="utf-8")
        oldest = text_format.Parse(text, model_config_pb2.ModelConfig()).sequence_batching.oldest
        assert oldest.max_queue_delay_microseconds == chunk_us / 20


def test_a_table_of_streams_is_bounded_and_forgets() -> None:
    now = [0.0]
    table = StreamTable[str](limit=2, time_to_live=10.0, clock=lambda: now[0])
    assert table.open(1, "a") and table.open(2, "b") and not table.open(3, "c")
    assert table.open(1, "again") and table.get(1) == "again"
    now[0] = 9.0
    assert table.get(2) == "b"
    now[0] = 11.0  # 1 was idle for 11 s, 2 for 2 s
    assert table.open(3, "c") and table.get(1) is None and len(table) == 2
    table.close(2)
    table.close(2)
    assert table.get(2) is None and len(table) == 1
