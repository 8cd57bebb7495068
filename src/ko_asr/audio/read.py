"""Any audio file to samples: whole, for a server, or the segment of a manifest entry."""

from pathlib import Path

import numpy as np
import soxr

from ko_asr.audio.problem import AudioProblem
from ko_asr.audio.reader import AudioReader
from ko_asr.errors import UserError
from ko_asr.runtime.frames import SAMPLE_RATE


def read_audio(path: str | Path) -> np.ndarray:
    """Read any file that libsndfile knows, as float32 [n] in -1..1, mono, 16 kHz.

    Channels are averaged and other rates resampled by soxr (HQ). Raises UserError when the file is missing,
    empty, not audio, cut off, damaged, or holds NaN.
    """
    try:
        with AudioReader(path) as audio:
            samples, rate = joined(audio), audio.rate
    except AudioProblem as problem:
        raise UserError(f"{path} {problem.said}") from problem
    if not len(samples):
        raise UserError(f"{path} holds no samples")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(samples, np.float32)


def read_segment(entry: dict, rate: int) -> np.ndarray:
    """Read mono float32 samples [n] of a manifest entry at ``rate``; UserError names an unreadable file."""
    path = entry["audio_filepath"]
    start, end = entry.get("offset", 0.0), None
    if "offset" in entry:
        end = start + entry["duration"]
    try:
        with AudioReader(path) as audio:
            samples, source_rate = joined(audio, start, end), audio.rate
    except AudioProblem as problem:
        raise UserError(f"cannot read the audio {path} ({problem}): prepare the manifest again") from problem
    if not len(samples):
        raise UserError(f"the audio {path} is empty: prepare the manifest again")
    return samples if source_rate == rate else soxr.resample(samples, source_rate, rate)


def joined(
    audio: AudioReader, start: float = 0.0, end: float | None = None, dtype: str = "float32"
) -> np.ndarray:
    """All blocks between ``start`` and ``end`` as one array. Raises AudioProblem."""
    blocks = list(audio.blocks(start, end, dtype))
    if len(blocks) == 1:
        return blocks[0]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype)
