"""The log-mel front end against the plain formula in double precision; export compares it with NeMo's."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.logmel import LogMel

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
    np.testing.assert_allclose(front(audio), plain(front, audio), atol=1e-3)


@pytest.mark.parametrize("library", ["scipy.fft", "numpy.fft"])
def test_without_scipy_numpy_does_it(tmp_path, library):
    front, audio = front_end(), np.random.default_rng(0).uniform(-1, 1, 50_000).astype(np.float32)
    front.save(tmp_path / "front.npz")
    np.save(tmp_path / "audio.npy", audio)
    hidden = "import sys; sys.modules['scipy'] = None\n" if library == "numpy.fft" else ""
    code = f"{hidden}import numpy as np, ko_asr.logmel as m\n"
    code += f"assert m.rfft.__module__.startswith({library!r}), m.rfft.__module__\n"
    code += "np.save('out.npy', m.LogMel.load('front.npz')(np.load('audio.npy')))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), plain(front, audio), atol=1e-3)
