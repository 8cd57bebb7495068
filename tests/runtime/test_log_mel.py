"""The log-mel front end against the plain formula in double precision; export compares it with NeMo's.

The graphs are compared with the numpy front end.
"""

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.runtime import tensors
from ko_asr.runtime.log_mel import LOUDEST, LogMel
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import BEFORE
from ko_asr.runtime.windows import SampleWindows, StreamingWindows

N_FFT, WINDOW, HOP, MELS = 512, 400, 160, 80


def front_end() -> LogMel:
    """80 triangles over the bins and a Hann window."""
    corners = np.geomspace(4, 256, MELS + 2)
    bins = np.arange(N_FFT // 2 + 1)
    filters = np.array([np.interp(bins, corners[i : i + 3], [0, 1, 0]) for i in range(MELS)], np.float32)
    window = np.hanning(WINDOW).astype(np.float32)
    return LogMel(window, filters, N_FFT, HOP, preemphasis=0.97, log_guard=2**-24, normalize="NA")


def plain(front: LogMel, audio: np.ndarray) -> np.ndarray:
    """ln(mel power + guard) [mels, frames], a frame at a time, as torch.stft(center=True) frames it."""
    emphasised = np.append(audio[:1], audio[1:] - 0.97 * audio[:-1].astype(np.float64))
    padded = np.pad(emphasised, N_FFT // 2)
    window = np.pad(front.window.astype(np.float64), (N_FFT - WINDOW) // 2)
    frames = np.stack([padded[k * HOP : k * HOP + N_FFT] * window for k in range(len(audio) // HOP)])
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2
    return np.log(front.filters.astype(np.float64) @ power.T + front.log_guard)


@settings(max_examples=30, deadline=None)
@given(st.integers(WINDOW, 30_000), st.integers(0, 2**32 - 1), st.sampled_from([1e-4, 0.1, 1.0]))
def test_equals_the_plain_formula_at_every_length(samples, seed, level):
    audio = (level * np.random.default_rng(seed).uniform(-1, 1, samples)).astype(np.float32)
    front = front_end()
    assert front(audio).shape == (MELS, samples // HOP)
    found, wanted = np.exp(front(audio), dtype=np.float64), np.exp(plain(front, audio))
    # In single precision a band that a frame hardly has is off by what the frame's loudest bands round to.
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-8 * wanted.max())


@pytest.mark.parametrize("library", ["scipy.fft", "numpy.fft"])
def test_without_scipy_numpy_does_it(tmp_path, library):
    front, audio = front_end(), np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    front.save(tmp_path / "front.npz")
    np.save(tmp_path / "audio.npy", audio)
    hidden = "import sys; sys.modules['scipy'] = None\n" if library == "numpy.fft" else ""
    code = f"{hidden}import numpy as np, ko_asr.runtime.log_mel as m\n"
    code += f"assert m.rfft.__module__.startswith({library!r}), m.rfft.__module__\n"
    code += "np.save('out.npy', m.LogMel.load('front.npz')(np.load('audio.npy')))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), plain(front, audio), atol=1e-3)


def streaming_contract(look_ahead: int) -> StreamingContract:
    """A contract with what the front end reads; the rest is of no model."""
    texts = dict.fromkeys(("export_id", "model", "model_sha256", "onnx_sha256"), "")
    sizes = {"blank_id": 0, "top_k": 8, "layers": 1, "d_model": 8, "kernel": 9, "left": 70, "subsampling": 8}
    front = {"mels": MELS, "sample_rate": 16_000, "hop": HOP, "window_samples": WINDOW}
    return StreamingContract(
        **texts, **sizes, **front, vocabulary={}, look_ahead=look_ahead, look_aheads=[look_ahead]
    )


def whole_bands(normalize: str) -> LogMel:
    """A front end without an empty filter: normalising a constant band gives rounding errors, in NeMo too."""
    corners, bins = np.linspace(1, 256, MELS + 2), np.arange(N_FFT // 2 + 1)
    filters = np.array([np.interp(bins, corners[i : i + 3], [0, 1, 0]) for i in range(MELS)], np.float32)
    return replace(front_end(), filters=filters, normalize=normalize)


@cache
def session(normalize: str, look_ahead: int | None = None):
    """The offline graph, or the streaming one of a look-ahead, on ONNX Runtime."""
    import onnxruntime

    from ko_asr.export.log_mel import export_offline_log_mel, export_streaming_log_mel

    front = whole_bands(normalize)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "logmel.onnx"
        if look_ahead is None:
            export_offline_log_mel(front, path)
        else:
            export_streaming_log_mel(front, streaming_contract(look_ahead), path)
        return onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])


def noise(samples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (10 ** generator.uniform(-4, 0) * generator.uniform(-1, 1, samples)).astype(np.float32)


def offline_graph(normalize: str, rows: list[np.ndarray], frames: int) -> tuple[np.ndarray, np.ndarray]:
    padded = np.full((len(rows), (frames + 1) * HOP), np.nan, np.float32)
    for row, audio in zip(padded, rows, strict=True):
        row[: len(audio)] = audio
    samples = np.array([[len(audio)] for audio in rows], np.int64)
    return session(normalize).run(None, {tensors.PADDED_AUDIO: padded, tensors.SAMPLES: samples})


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(WINDOW, 20_000), min_size=1, max_size=4),
    st.integers(0, 70),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["per_feature", "NA"]),
)
def test_rows_of_a_padded_batch_are_each_alone(lengths, more, seed, normalize):
    front = whole_bands(normalize)
    if normalize == "per_feature":  # of a few frames alone, a deviation can be near nothing
        lengths = [2_400 + samples for samples in lengths]
    rows = [noise(samples, seed + k) for k, samples in enumerate(lengths)]
    bucket = max(lengths) // HOP + more
    features, counts = offline_graph(normalize, rows, bucket)  # its padding is NaN: nothing may read it
    assert features.shape == (len(rows), MELS, bucket)
    for row, count, audio in zip(features, counts[:, 0], rows, strict=True):
        assert count == len(audio) // HOP
        alone, _ = offline_graph(normalize, [audio], count)
        np.testing.assert_allclose(row[:, :count], alone[0], atol=1e-4)
        np.testing.assert_allclose(row[:, :count], front(audio), atol=1e-3)
        assert not row[:, count:].any()


def windows_alone(contract: StreamingContract, packets: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    """All windows of a stream by the numpy front end and by the graph: features and lengths of each."""
    theirs = StreamingWindows(contract, whole_bands("NA"))
    ours = SampleWindows(contract)
    features, lengths, audio, places = [], [], [], []
    for index, packet in enumerate(packets):
        for windows in (theirs, ours):
            windows.feed(packet)
            if index == len(packets) - 1:
                windows.end()
        assert ours.remaining == theirs.remaining
        features.append(np.empty((MELS, contract.window_frames), np.float32))
        lengths.append(theirs.take(features[-1]))
        audio.append(np.empty(contract.window_audio, np.float32))
        places.append(ours.take(audio[-1]))
    before, samples = np.array(places, np.int64).T[:, :, None]
    feed = {tensors.PADDED_AUDIO: np.stack(audio), BEFORE: before, tensors.SAMPLES: samples}
    got, counts = session("NA", contract.look_ahead).run(None, feed)
    return np.stack(features), np.array(lengths), got, counts[:, 0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 25_000), st.sampled_from([0, 6]), st.integers(0, 2**32 - 1))
@pytest.mark.parametrize("extra", [0, 1])
def test_windows_of_a_stream_are_those_of_the_numpy_front_end(extra, samples, look_ahead, seed):
    """Fed as the server feeds them: one chunk a request, ``extra``: as early as it may come, or as late."""
    contract = streaming_contract(look_ahead)
    clip, packets, start = noise(samples, seed), [], 0
    while len(clip) - contract.shift_samples * len(packets) > contract.end_samples:
        most = contract.chunk_samples(len(packets)) + extra * contract.shift_samples
        packets.append(clip[start : min(most, len(clip))])
        start += len(packets[-1])
    packets.append(clip[start:])
    features, lengths, got, counts = windows_alone(contract, packets)
    np.testing.assert_array_equal(counts, lengths)
    np.testing.assert_allclose(got, features, atol=1e-3)
    frame = np.arange(contract.window_frames)[None]
    start = contract.shift_frames * np.arange(len(packets))[:, None]
    outside = (frame + start < contract.context_frames) | (frame >= lengths[:, None])
    assert not got.transpose(0, 2, 1)[outside].any()


def test_audio_shorter_than_a_frame_and_loud_audio_are_finite():
    features, counts = offline_graph("per_feature", [noise(159, 0), noise(WINDOW, 0)], 3)
    assert counts[:, 0].tolist() == [0, 2] and not features[0].any()
    loud = LOUDEST * np.where(np.arange(8_000) % 2, 1, -1).astype(np.float32)
    assert np.isfinite(offline_graph("NA", [loud], 50)[0]).all()
    assert np.isfinite(whole_bands("NA")(loud)).all()


def test_normalised_features_have_no_streaming_graph():
    with pytest.raises(UserError, match="need the whole utterance"):
        session("per_feature", look_ahead=6)
