"""The written form on a real tritonserver: beside the spoken one, which stays, and only where asked for."""

import itertools
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as triton
from commands import run, sentence

from ko_asr.client.connection import RequestRefused
from ko_asr.client.offline import AsrClient, Transcription
from ko_asr.client.streaming import StreamingClient
from ko_asr.finishing.finisher import finish
from ko_asr.finishing.options import FinishOptions
from ko_asr.recognition.streaming import StreamingRecognizer
from ko_asr.runtime import tensors
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = FinishOptions(style={"native": "all"})
Clips = list[np.ndarray]


# The demo's model spells what it was taught, digits. So its tokens are given these words, each of its own.
SPOKEN = """
삼월 오일에 만오천원 십이층으로 세시 삼십분에 사람이 칠십퍼센트 이천이십사년 다섯 명 이십 만 공일공 일이삼사
오육칠팔로 케이비에스 오늘은 그래서 사과 스무 개 육 대 사 제삼조 영 점 오 백칠십 센티 네이버 점 컴 할머니가
"""


@pytest.fixture(scope="module")
def server(
    demo, streaming_repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """Both demo models, whose tokens are words of numbers."""
    folder = tmp_path_factory.mktemp("numbers") / "triton"
    for repository in (streaming_repository, demo.repository):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository, folder, ignore=ignored, dirs_exist_ok=True)
    for path in folder.glob("*decoder*/1/*contract.json"):
        contract = json.loads(path.read_text(encoding="utf-8"))
        pieces = contract["vocabulary"]["pieces"]
        pieces[1:] = [
            f"▁{word}" for word in itertools.islice(itertools.cycle(SPOKEN.split()), len(pieces) - 1)
        ]
        contract["vocabulary"]["rule"] = "identity"
        path.write_text(json.dumps(contract), encoding="utf-8")
    with TritonServer(folder, ROOT / ".server") as running:
        yield running


@pytest.fixture(scope="module")
def speech(clips: Clips) -> np.ndarray:
    """Some utterances with pauses that end them."""
    pause = np.zeros(24_000, np.float32)
    return np.concatenate([part for clip in clips[:20] for part in (clip, pause)])


def stream(url: str, audio: np.ndarray, options: StreamOptions | None, seed: int = 0) -> list[Result]:
    """The results of audio in packets of any size."""
    sizes, results, position = random.Random(seed), [], 0
    with StreamingClient(url, model="asr_streaming_1", timeout=60.0) as client, client.open(options) as live:
        while position < len(audio):
            size = sizes.choice((160, 999, 4480, 30_000))
            results += live.send(audio[position : position + size])
            position += size
        return results + live.finish()


def spoken(results: list[Result]) -> list[tuple]:
    return [(r.text, r.is_final, r.words, r.utterance, r.stable) for r in results]


def test_files_have_both_forms(server: TritonServer, clips: Clips) -> None:
    changed = 0
    with AsrClient(server.url) as client:
        for clip in clips[:30]:
            plain = client.transcribe(clip, words=True)
            both = client.transcribe(clip, words=True, written=WRITTEN)
            assert plain.written is None
            assert (both.text, both.confidence, both.words) == (plain.text, plain.confidence, plain.words)
            assert both.written is not None
            assert both.written.text == finish(both.text, WRITTEN).text
            changed += both.written.text != both.text
            check_sources(both)
    assert changed > 10


def check_sources(heard: Transcription) -> None:
    """Every spoken word is in a written one's sources; times and confidence are theirs."""
    written = heard.written
    assert {number for word in written.words for number in word.sources} == {*range(len(heard.words))}
    for word in written.words:
        first, last = (heard.words[number] for number in (word.sources[0], word.sources[-1]))
        assert first["start_ms"] <= word.start_ms <= word.end_ms <= last["end_ms"]
        assert word.confidence == min(heard.words[number]["confidence"] for number in word.sources)
        if len(word.sources) == 1 and word.text == first["text"]:
            assert (word.start_ms, word.end_ms) == (first["start_ms"], first["end_ms"])


def test_streams_have_both_forms(server: TritonServer, speech: np.ndarray) -> None:
    plain, both = (stream(server.url, speech, StreamOptions(written=one)) for one in (None, WRITTEN))
    assert spoken(both) == spoken(plain)
    assert all(result.written is None for result in plain)
    finals = [result for result in both if result.is_final]
    assert len(finals) >= 15
    for result in finals:
        assert result.written.text == finish(result.text, WRITTEN).text
    assert any(result.written.text != result.text for result in finals)
    for before, after in itertools.pairwise(both):
        if not before.is_final and before.utterance == after.utterance:
            assert after.written.text.startswith(before.written.text[: before.written.stable])
    assert any(result.written.stable for result in both if not result.is_final)


def test_finals_are_the_same_at_any_packet_size(server: TritonServer, speech: np.ndarray) -> None:
    options = StreamOptions(written=WRITTEN)
    first, second = (
        [r.written for r in stream(server.url, speech, options, seed) if r.is_final] for seed in (1, 2)
    )
    assert first == second


def test_what_is_heard_in_process_has_both_forms(streaming_model: Path, clips: Clips) -> None:
    engine = StreamingRecognizer.load(streaming_model, look_ahead=1, time_to_live=None)
    for options in (None, WRITTEN):
        with engine.open(endpointing=EndpointRules(), written=options) as session:
            results = [*session.push(clips[48]), *session.flush()]
        finals = [result for result in results if result.is_final]
        assert finals and all((result.written is not None) == bool(options) for result in results)
    assert all(result.written.text == finish(result.words, WRITTEN).text for result in finals)


BAD = [
    ({"written": 1}, "options.written is true or an object of options, not 1"),
    ({"written": {"numbers": True}}, "options.written has no option 'numbers'"),
    ({"written": {"style": {"time": "iso"}}}, "style time is 'iso': it takes words, colon"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_a_stream_whose_written_form_cannot_be_is_refused_in_a_sentence(
    server: TritonServer, clips: Clips, options: dict, said: str
) -> None:
    class Sent(StreamOptions):
        def to_json(self) -> str:
            return json.dumps(options)

    with pytest.raises(RequestRefused) as refused:
        stream(server.url, clips[0], Sent())
    message = str(refused.value)
    assert refused.value.code == "INVALID_ARGUMENT"
    assert said in message and "\n" not in message and "/" not in message
    assert stream(server.url, clips[0], None)[-1].is_final


def infer(url: str, clip: np.ndarray, options: object = None, outputs: list[str] | None = None) -> dict:
    """The outputs of `asr` as a client without our library reads them."""
    inputs = [triton.InferInput(tensors.AUDIO, [1, len(clip)], "FP32")]
    inputs[0].set_data_from_numpy(clip[None])
    if options is not None:
        inputs.append(triton.InferInput(tensors.OPTIONS, [1, 1], "BYTES"))
        inputs[1].set_data_from_numpy(np.array([[json.dumps(options).encode()]], np.object_))
    wanted = outputs and [triton.InferRequestedOutput(name) for name in outputs]
    with triton.InferenceServerClient(url) as client:
        answer = client.infer(tensors.ENSEMBLE, inputs, outputs=wanted)
    names = [output.name for output in answer.get_response().outputs]
    return {name: answer.as_numpy(name)[0, 0] for name in names}


@pytest.mark.parametrize(("options", "said"), BAD)
def test_a_file_whose_written_form_cannot_be_is_refused_in_a_sentence(
    server: TritonServer, clips: Clips, options: dict, said: str
) -> None:
    with pytest.raises(triton.InferenceServerException) as refused:
        infer(server.url, clips[0], options)
    assert refused.value.status() == "StatusCode.INVALID_ARGUMENT"
    message = refused.value.message()
    assert said in message and "\n" not in message and "/" not in message


def test_who_does_not_ask_gets_what_there_was(server: TritonServer, clips: Clips) -> None:
    old = [tensors.TEXT, tensors.CONFIDENCE, tensors.WORDS]
    listed, everything = infer(server.url, clips[0], outputs=old), infer(server.url, clips[0])
    assert {*listed} == {*old}
    assert everything == listed | {tensors.WRITTEN: b""}
    asked = infer(server.url, clips[0], {"written": True})
    assert json.loads(asked.pop(tensors.WRITTEN))["text"] and asked == listed
    for off in (None, False):
        assert infer(server.url, clips[0], {"written": off}) == everything


def test_the_clients_show_it(server: TritonServer, clips: Clips, tmp_path: Path) -> None:
    audio = tmp_path / "speech.wav"
    soundfile.write(audio, clips[0], 16_000)
    done = run("recipes/transcribe_client.py", audio, "--url", server.url, "--written")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["written"]["text"] == finish(line["text"]).text
    command = ["recipes/stream_client.py", audio, "--url", server.url, "--json", "--style", "native=all"]
    done = run(*command)
    assert done.returncode == 0, done.stderr
    final = json.loads(done.stdout.splitlines()[-1])
    assert final["written"]["text"] == finish(final["text"], WRITTEN).text
    assert "stable" not in final["written"]
    done = run("recipes/stream_client.py", audio, "--url", server.url, "--style", "native=some")
    assert "style native is 'some': it takes eleven, all, none" in sentence(done)
