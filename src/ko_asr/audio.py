"""Corpus audio to samples to FLAC."""

import io
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16_000


def pcm_samples(data: bytes) -> np.ndarray:
    """Headerless signed 16-bit little-endian mono: int16 [samples].

    A surplus trailing byte is dropped: every eval file of KsponSpeech has one.
    """
    return np.frombuffer(data, "<i2", count=len(data) // 2)


def flac_bytes(samples: np.ndarray, rate: int = SAMPLE_RATE) -> bytes:
    """Encode int16 [samples] losslessly."""
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write_flac(path: Path, samples: np.ndarray) -> int:
    """Write FLAC and return its size in bytes."""
    data = flac_bytes(samples)
    path.write_bytes(data)
    return len(data)
