"""Audio files of any length, format, rate and channel count, a block at a time, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ko_asr.audio.problem import AudioProblem
from ko_asr.audio.reader import AudioReader
from ko_asr.errors import UserError


class AudioStream:
    """Iterator over any file that libsndfile reads: float32 blocks in -1..1, mono, at one rate.

    Channels are averaged and other rates resampled by soxr (HQ) as a stream, so no block has an edge.
    """

    def __init__(self, path: str | Path, rate: int = 16_000) -> None:
        """Open ``path``. UserError when it is missing, no audio that libsndfile knows, cut off, or empty."""
        self.path, self.rate = Path(path), rate
        try:
            self._reader = AudioReader(path)
            try:
                self._reader.check()
            except AudioProblem:
                self._reader.close()
                raise
        except AudioProblem as problem:
            raise UserError(f"{path} {problem.said}") from problem
        if self._reader.seconds == 0:
            self._reader.close()
            raise UserError(f"{path} holds no samples")
        self._heard = 0.0  # seconds

    def __enter__(self) -> "AudioStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def duration(self) -> float:
        """Seconds by the header; where it leaves them open, those that were read."""
        return self._heard if self._reader.seconds is None else self._reader.seconds

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield blocks of about five seconds. UserError on NaN, and for a damaged or cut file."""
        resampler = self._resampler()
        try:
            for mono in self._reader.blocks():
                self._heard += len(mono) / self._reader.rate
                yield mono if resampler is None else resampler.resample_chunk(mono)
        except AudioProblem as problem:
            raise UserError(f"{self.path} {problem.said}") from problem
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _resampler(self):
        if self._reader.rate == self.rate:
            return None
        import soxr

        return soxr.ResampleStream(self._reader.rate, self.rate, 1, dtype="float32", quality="HQ")
