"""Silence by level: what is quieter than the limit, and never quiet speech."""

import numpy as np
import pytest

from ko_asr.runtime.silence import SILENCE_DBFS, is_silent

RATE = 16_000


def sound(seconds: float, dbfs: float, frequency: float = 220.0) -> np.ndarray:
    times = np.arange(int(seconds * RATE)) / RATE
    return (np.sqrt(2) * 10 ** (dbfs / 20) * np.sin(2 * np.pi * frequency * times)).astype(np.float32)


@pytest.mark.parametrize("samples", [1, 399, 401, 8000, 16_001, 160_000])
def test_quiet_audio_of_any_length(samples: int) -> None:
    rng = np.random.default_rng(samples)
    noise = rng.standard_normal(samples).astype(np.float32)
    quiet = {
        "zeros": np.zeros(samples, np.float32),
        "an offset": np.full(samples, 0.25, np.float32),
        "rounding": rng.integers(-1, 2, samples).astype(np.float32) / 32768,
        "noise at -80 dBFS": 1e-4 * noise,
    }
    for name, audio in quiet.items():
        assert is_silent(audio, SILENCE_DBFS), name
        assert not is_silent(audio, None), "off"
    if samples > 1:
        assert not is_silent(3e-3 * noise, SILENCE_DBFS), "noise at -50 dBFS"


@pytest.mark.parametrize("place", [0.0, 0.5, 0.999, 3.33, 4.9])
def test_a_soft_syllable_in_silence_is_heard(place: float) -> None:
    audio = np.zeros(5 * RATE, np.float32)
    start = int(place * RATE)
    audio[start : start + 1600] = sound(0.1, -50.0)[: len(audio) - start]
    assert not is_silent(audio, SILENCE_DBFS)


def test_the_limit_is_the_level_of_the_loudest_window() -> None:
    audio = np.concatenate([np.zeros(RATE, np.float32), sound(1.0, -60.0)])
    assert is_silent(audio, -59.5) and not is_silent(audio, -60.5)
