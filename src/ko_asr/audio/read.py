"""Any audio file to samples: whole, for a server, or the segment of a manifest entry."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from ko_asr.errors import UserError
from ko_asr.runtime.frames import SAMPLE_RATE


def read_audio(path: str | Path) -> np.ndarray:
    """Read any file that libsndfile knows, as float32 [n] in -1..1, mono, 16 kHz.

    Channels are averaged and other rates resampled by soxr (HQ). Raises UserError when the file is missing,
    empty or not audio.
    """
    import soundfile
    import soxr

    if not Path(path).is_file():
        raise UserError(f"no file {path}")
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless .raw without a format
        raise UserError(f"{path} is no audio that libsndfile reads: send WAV, FLAC, OGG or MP3") from error
    if not len(samples):
        raise UserError(f"{path} holds no samples")
    mono = samples.mean(axis=1, dtype=np.float32)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(mono, np.float32)


def read_segment(entry: dict, rate: int) -> np.ndarray:
    """Read mono float32 samples [n] of a manifest entry at ``rate``; UserError names an unreadable file."""
    path = entry["audio_filepath"]
    try:
        with soundfile.SoundFile(path) as audio:
            start = round(entry.get("offset", 0.0) * audio.samplerate)
            frames = round(entry["duration"] * audio.samplerate) if "offset" in entry else -1
            audio.seek(start)
            samples = audio.read(frames, dtype="float32", always_2d=True).mean(1)
            source_rate = audio.samplerate
    except (RuntimeError, OSError) as error:
        raise UserError(f"cannot read the audio {path} ({error}): prepare the manifest again") from error
    if not len(samples):
        raise UserError(f"the audio {path} is empty: prepare the manifest again")
    return samples if source_rate == rate else soxr.resample(samples, source_rate, rate)
