"""Cache-aware streaming: what is heard chunk by chunk is what the whole audio gives, whatever the packets."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.recognition.streaming import FrameRecorder, Session, StreamingRecognizer
from ko_asr.runtime import file_names
from ko_asr.runtime.ctc import collapse
from ko_asr.runtime.log_mel import LogMel
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.stream_log_mel import StreamingLogMel

LOOK_AHEADS = (13, 6, 1, 0)
EXPORTED = 6  # the look-ahead that is also run on ONNX Runtime
Frames = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def nemo(streaming_model: Path):
    from ko_asr.models.nemo_file import load_exportable_model

    return load_exportable_model(streaming_model)


@pytest.fixture(scope="module")
def exported(streaming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from ko_asr.export.streaming.folder import export_look_ahead

    folder = tmp_path_factory.mktemp("streaming")
    export_look_ahead(streaming_model, folder, EXPORTED)
    return folder


@pytest.fixture(scope="module")
def recognizer(exported: Path) -> StreamingRecognizer:
    return StreamingRecognizer.load(exported)


def full_forward(model, clips: Sequence[np.ndarray], look_ahead: int) -> list[np.ndarray]:
    """NeMo's own log-probabilities [frames, V + 1] of whole utterances."""
    import torch

    model.encoder.set_default_att_context_size([70, look_ahead])
    answers: list[np.ndarray] = []
    for start in range(0, len(clips), 25):
        batch = [torch.from_numpy(clip) for clip in clips[start : start + 25]]
        with torch.inference_mode():
            log_probs, counts, _ = model(
                input_signal=torch.nn.utils.rnn.pad_sequence(batch, batch_first=True),
                input_signal_length=torch.tensor([len(clip) for clip in batch]),
            )
        answers += [row[:count].numpy() for row, count in zip(log_probs, counts.tolist(), strict=True)]
    return answers


def stream(recognizer: StreamingRecognizer, clips: Sequence[np.ndarray], batch: int) -> list[Frames]:
    """Frames of all clips, streamed side by side."""
    recorders = [FrameRecorder() for _ in clips]
    sessions = [recognizer.open(recorder) for recorder in recorders]
    for session, clip in zip(sessions, clips, strict=True):
        session.feed(clip)
        session.end()
    while recognizer.step(batch):
        pass
    for session in sessions:
        session.close()
    return [recorder.frames() for recorder in recorders]


def assert_equal_to_nemo(
    recognizer: StreamingRecognizer, clips: Sequence[np.ndarray], wanted: list[np.ndarray]
) -> None:
    vocabulary, blank = recognizer.vocabulary, recognizer.contract.blank_id
    for (ids, log_probs), reference in zip(stream(recognizer, clips, len(clips)), wanted, strict=True):
        assert ids.shape == log_probs.shape == (len(reference), recognizer.contract.top_k)
        best = reference.argmax(axis=1)
        np.testing.assert_array_equal(ids[:, 0], best)
        np.testing.assert_allclose(np.take_along_axis(reference, ids, axis=1), log_probs, atol=1e-4)
        text = vocabulary.text(token.id for token in collapse(ids[:, 0], blank))
        assert text == vocabulary.text(token.id for token in collapse(best, blank))


@pytest.mark.parametrize("look_ahead", LOOK_AHEADS)
def test_streams_equal_the_full_forward_pass(nemo, streaming_model, exported, clips, look_ahead) -> None:
    wanted = full_forward(nemo, clips, look_ahead)
    torch_recognizer = StreamingRecognizer.load(streaming_model, look_ahead, "torch", threads=2)
    assert_equal_to_nemo(torch_recognizer, clips, wanted)
    if look_ahead == EXPORTED:
        assert_equal_to_nemo(StreamingRecognizer.load(exported), clips, wanted)


def test_greedy_text_is_that_of_nemo(nemo, recognizer, clips) -> None:
    """Through the decoder that sessions have by default, packet by packet."""
    clips = clips[:20]
    wanted = full_forward(nemo, clips, EXPORTED)
    for clip, reference in zip(clips, wanted, strict=True):
        with recognizer.open() as session:
            results = [result for packet in np.array_split(clip, 7) for result in session.push(packet)]
            results += session.flush()
        ids = (token.id for token in collapse(reference.argmax(axis=1), recognizer.contract.blank_id))
        assert results[-1].is_final and results[-1].text == recognizer.vocabulary.text(ids)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_packets_of_any_size_give_the_same_frames(recognizer, clips, data) -> None:
    clip = clips[data.draw(st.integers(0, len(clips) - 1))]
    clip = clip[: data.draw(st.integers(0, len(clip)))]
    cuts = data.draw(st.lists(st.integers(0, len(clip)), max_size=12).map(sorted))
    recorder = FrameRecorder()
    session = recognizer.open(recorder)
    for packet in np.split(clip, cuts):
        session.push(packet)
        assert not session.ready, "everything that can be computed is computed at once"
    session.flush()
    ids, log_probs = recorder.frames()
    ((whole_ids, whole_log_probs),) = stream(recognizer, [clip], 1)
    assert len(ids) == recognizer.contract.frames_of_samples(len(clip))
    np.testing.assert_array_equal(ids[:, :1], whole_ids[:, :1])
    np.testing.assert_allclose(log_probs, whole_log_probs, atol=1e-4)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False), st.integers(1, 5))
def test_sessions_do_not_influence_each_other(recognizer, clips, random, batch) -> None:
    """Streams begin, pause, end and vanish at different times, in batches that change all the time."""
    chosen = [clips[random.randrange(len(clips))] for _ in range(7)]
    alone = [stream(recognizer, [clip], 1)[0] for clip in chosen]
    recorders = [FrameRecorder() for _ in chosen]
    sessions: list[Session | None] = [recognizer.open(recorder) for recorder in recorders]
    places = [0] * len(chosen)
    vanishing = random.randrange(len(chosen))
    while any(sessions):
        index = random.choice([i for i, session in enumerate(sessions) if session])
        session, size = sessions[index], random.randrange(1, 20_000)
        assert session is not None
        session.feed(chosen[index][places[index] : places[index] + size])
        places[index] += size
        if index == vanishing and places[index] > len(chosen[index]) // 2:
            session.close()
            sessions[index] = None
        elif places[index] >= len(chosen[index]):
            session.end()
            sessions[index] = None
        if random.random() < 0.5:
            recognizer.step(batch)
    while recognizer.step(batch):
        pass
    for index, (recorder, (ids, log_probs)) in enumerate(zip(recorders, alone, strict=True)):
        got_ids, got = recorder.frames()
        count = len(got_ids)
        assert index == vanishing or count == len(ids)
        np.testing.assert_array_equal(got_ids[:, :1], ids[:count, :1] if count else got_ids[:, :1])
        np.testing.assert_allclose(got, log_probs[:count] if count else got, atol=1e-4)
    for session in list(recognizer.sessions):
        session.close()


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    samples=st.integers(0, 20_000),
    cuts=st.lists(st.integers(0, 20_000), max_size=20),
    level=st.sampled_from([0.0, 1e-4, 0.3, 5.0]),
    seed=st.integers(0, 99),
)
def test_incremental_log_mel_is_the_whole_one(recognizer, samples, cuts, level, seed) -> None:
    log_mel = recognizer.log_mel
    audio = (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)
    front_end = StreamingLogMel(log_mel)
    parts = [front_end.push(packet) for packet in np.split(audio, sorted(cuts))]
    assert front_end.frames == max(0, (samples - len(log_mel.window) // 2) // log_mel.hop + 1), (
        "all that is final"
    )
    got = np.concatenate([*parts, front_end.flush()], axis=1)
    assert got.shape == (80, samples // log_mel.hop)
    if got.size:
        np.testing.assert_allclose(got, log_mel(audio), atol=1e-5)


def test_incremental_log_mel_is_nemos(nemo, recognizer, clips) -> None:
    import torch

    for clip in clips[:10]:
        front_end = StreamingLogMel(recognizer.log_mel)
        got = np.concatenate([front_end.push(clip[:1234]), front_end.push(clip[1234:]), front_end.flush()], 1)
        with torch.inference_mode():
            wanted, count = nemo.preprocessor(
                input_signal=torch.from_numpy(clip)[None], length=torch.tensor([len(clip)])
            )
        assert got.shape[1] == int(count[0])
        np.testing.assert_allclose(got, wanted[0, :, : got.shape[1]].numpy(), atol=1e-3)


def test_features_that_need_the_whole_utterance_are_refused(recognizer) -> None:
    settings_ = {name: getattr(recognizer.log_mel, name) for name in LogMel.__dataclass_fields__}
    with pytest.raises(UserError, match="need the whole utterance"):
        StreamingLogMel(LogMel(**settings_ | {"normalize": "per_feature"}))


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (np.full(160, np.nan, np.float32), "hold NaN or infinity"),
        (np.array([np.inf], np.float32), "hold NaN or infinity"),
        (np.zeros((160, 2), np.float32), r"one channel is heard, not samples of shape \(160, 2\)"),
        (np.zeros(160, np.int16), "must be floats in -1..1, not int16"),
    ],
)
def test_a_bad_packet_is_refused_and_leaves_no_trace(recognizer, clips, samples, sentence) -> None:
    recorder = FrameRecorder()
    with recognizer.open(recorder) as session:
        session.push(clips[0][:9000])
        with pytest.raises(UserError, match=sentence):
            session.push(samples)
        session.push(clips[0][9000:])
        session.flush()
    np.testing.assert_array_equal(recorder.frames()[0][:, 0], stream(recognizer, clips[:1], 1)[0][0][:, 0])


def test_too_little_audio_gives_no_text(recognizer) -> None:
    for count in (0, 1, 159):
        with recognizer.open() as session:
            assert not [r for r in session.push(np.zeros(count, np.float32)) + session.flush() if r.text]
    for audio in (np.zeros(32_000, np.float32), np.ones(32_000, np.float32) * 3):  # silence; clipped for good
        (ids, log_probs) = stream(recognizer, [audio], 1)[0]
        assert len(ids) == recognizer.contract.frames_of_samples(32_000) and np.isfinite(log_probs).all()


def test_the_end_of_a_session(streaming_model, exported) -> None:
    now = [0.0]
    recognizer = StreamingRecognizer.load(exported, time_to_live=10.0, clock=lambda: now[0])
    flushed, kept, idle = (recognizer.open() for _ in range(3))
    flushed.flush()
    flushed.close()
    with pytest.raises(UserError, match="takes no audio, it is closed"):
        flushed.push(np.zeros(160, np.float32))
    with pytest.raises(UserError, match="takes no audio, it is closed"):
        flushed.flush()
    now[0] = 9.0
    kept.push(np.zeros(20_000, np.float32))
    now[0] = 11.0
    recognizer.step()
    assert idle.closed and not kept.closed and list(recognizer.sessions) == [kept]
    with pytest.raises(UserError, match="closed after 10 s without audio"):
        idle.push(np.zeros(160, np.float32))
    with pytest.raises(UserError, match="16000 Hz, not 8000 Hz"):
        recognizer.open(sample_rate=8000)


def test_an_idle_session_does_not_hold_the_memory_of_a_batch(recognizer, clips) -> None:
    sessions = [recognizer.open(FrameRecorder()) for _ in range(16)]
    for session in sessions:
        session.feed(clips[0])
    recognizer.step(16)
    for session in sessions[1:]:
        session.close()
    (state,) = [session._batch.state for session in sessions[:1]]
    assert state[0].shape()[0] == 1
    sessions[0].close()


def test_exported_models_need_neither_torch_nor_nemo(exported: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from ko_asr.recognition.streaming import StreamingRecognizer\n"
        f"session = StreamingRecognizer.load({str(exported)!r}).open()\n"
        "session.push(np.zeros(40_000, np.float32)); session.flush()\n"
        "assert not {'torch', 'nemo', 'lightning'} & set(sys.modules), sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_contract_describes_the_graph(exported: Path) -> None:
    import onnx

    contract = StreamingContract.load(exported)
    graph = onnx.load(str(exported / file_names.GRAPH)).graph
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert shapes.pop("features") == ["batch", contract.mels, contract.window_frames]
    assert shapes.pop("length") == ["batch", 1]
    assert shapes == {state["input"]: ["batch", *state["shape"]] for state in contract.states}
    assert {state["output"] for state in contract.states} <= {output.name for output in graph.output}
    assert not {node.op_type for node in graph.node} & {"Floor", "Ceil"}, "lengths must stay integers"
    assert max(contract.parity.values()) < 1e-4 and contract.look_aheads == list(LOOK_AHEADS)
    assert (contract.chunk_seconds, contract.chunk_samples(0)) == (0.28, 24 * 160 + 200)


def test_models_that_cannot_be_loaded_end_in_a_sentence(demo, exported, streaming_model, tmp_path) -> None:
    with pytest.raises(UserError, match="does not stream exactly"):
        StreamingRecognizer.load(demo.model, backend="torch")
    with pytest.raises(UserError, match=r"no look-ahead of 5 encoder frames: one of 0, 1, 6, 13"):
        StreamingRecognizer.load(streaming_model, 5)
    with pytest.raises(UserError, match="was exported with a look-ahead of 6 encoder frames, not 0"):
        StreamingRecognizer.load(exported, 0)
    with pytest.raises(UserError, match="no model at"):
        StreamingRecognizer.load(tmp_path / "missing.nemo")
    with pytest.raises(UserError, match="export a streaming model into that folder"):
        StreamingRecognizer.load(tmp_path)
    for name in ("streaming_contract.json", file_names.GRAPH, file_names.LOG_MEL):
        (tmp_path / name).write_bytes((exported / name).read_bytes())
    (tmp_path / file_names.GRAPH).write_bytes(b"not a graph")
    with pytest.raises(UserError, match="is not the graph that its contract describes"):
        StreamingRecognizer.load(tmp_path)
