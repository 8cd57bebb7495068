"""Audio files of any length, format, rate and channel count, a block at a time, in bounded memory."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ko_asr.errors import UserError

_BLOCK_SECONDS = 5.0
_MISSING_SECONDS = 0.5  # headers of compressed files may count the encoder's padding


class AudioStream:
    """Iterator over any file that libsndfile reads: float32 blocks in -1..1, mono, at one rate.

    Channels are averaged and other rates resampled by soxr (HQ) as a stream, so no block has an edge.
    """

    def __init__(self, path: str | Path, rate: int = 16_000) -> None:
        """Open ``path``. UserError when it is missing, no audio that libsndfile knows, or empty."""
        import soundfile

        self.path, self.rate = Path(path), rate
        if not self.path.is_file():
            raise UserError(f"no file {path}")
        try:
            self._file = soundfile.SoundFile(str(path))
        except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless .raw
            raise UserError(
                f"{path} is no audio that libsndfile reads (WAV, FLAC, OGG, Opus, MP3, AIFF ...): convert it "
                f"first, with ffmpeg -i FILE -ac 1 -ar {rate} FILE.flac"
            ) from error
        if not self._file.frames:
            self._file.close()
            raise UserError(f"{path} holds no samples")
        self.duration = self._file.frames / self._file.samplerate  # seconds, by the header

    def __enter__(self) -> "AudioStream":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield blocks of about five seconds. UserError on NaN, and for a file shorter than its header."""
        resampler = self._resampler()
        done, rate = 0, self._file.samplerate
        for block in self._blocks():
            mono = block.mean(axis=1, dtype=np.float32) if block.shape[1] > 1 else block[:, 0]
            if not np.isfinite(mono).all():
                raise UserError(f"{self.path} holds NaN or infinity after {done / rate:.0f} s: make it again")
            done += len(block)
            yield mono if resampler is None else resampler.resample_chunk(mono)
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        if done < self._file.frames - rate * _MISSING_SECONDS:
            raise UserError(
                f"{self.path} ends after {done / rate:.0f} s of {self.duration:.0f} s: copy it again"
            )

    def _resampler(self):
        if self._file.samplerate == self.rate:
            return None
        import soxr

        return soxr.ResampleStream(self._file.samplerate, self.rate, 1, dtype="float32", quality="HQ")

    def _blocks(self) -> Iterator[np.ndarray]:
        import soundfile

        size = int(_BLOCK_SECONDS * self._file.samplerate)
        try:
            while len(block := self._file.read(size, dtype="float32", always_2d=True)):
                yield block
        except (soundfile.LibsndfileError, RuntimeError) as error:
            at = self._file.tell() / self._file.samplerate
            raise UserError(
                f"{self.path} cannot be read after {at:.0f} s ({error}): copy it again"
            ) from error
