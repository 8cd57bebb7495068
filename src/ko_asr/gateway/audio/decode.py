"""An upload of any format to 16 kHz mono in a file of float32, in memory that does not grow with it.

libsndfile decodes in a thread what it can, under the library's own reader, and ffmpeg in a process the rest.
What a header says of the length is never believed: seconds are counted as they come.
"""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import soxr

from ko_asr.audio.mixdown import Mixdown, check_values
from ko_asr.audio.problem import AudioProblem, UnknownFormat
from ko_asr.audio.reader import AudioReader
from ko_asr.gateway.audio.ffmpeg import DEMUXERS, Ffmpeg
from ko_asr.gateway.audio.folders import RequestFolder, room_on_disk
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.runtime.frames import SAMPLE_RATE

_RATES = (4_000, 384_000)  # Hz
_SAMPLES_A_SECOND = 8 * _RATES[1]  # of all channels: a block of a forged header would take all memory


@dataclass(frozen=True)
class Decoded:
    """Float32 samples at 16 kHz, mono: a few in memory, as ``whole``, more in ``path``, little-endian."""

    samples: int
    whole: np.ndarray | None = None
    path: Path | None = None

    @property
    def seconds(self) -> float:
        """Length, as counted."""
        return self.samples / SAMPLE_RATE

    def read(self) -> np.ndarray:
        """All of them, float32 [n]."""
        if self.path is None:
            assert self.whole is not None
            return self.whole
        return np.fromfile(self.path, "<f4")

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield [n] with n <= ``size``."""
        if self.path is None:
            assert self.whole is not None
            yield from (self.whole[at : at + size] for at in range(0, self.samples, size))
            return
        with self.path.open("rb") as file:
            while len(block := np.fromfile(file, "<f4", count=size)):
                yield block


class _TooLong(Exception):
    """More audio than a request may bring."""


async def decode(folder: RequestFolder, param: str, settings: Settings, pool: ThreadPoolExecutor) -> Decoded:
    """Decode the upload of ``folder``. ApiError, with ``param``, where it cannot be used or is too long."""
    decoding = _Decoding(folder, settings)
    work = asyncio.get_running_loop().run_in_executor(pool, decoding.run)
    try:
        async with asyncio.timeout(settings.decode_timeout):
            return await asyncio.shield(work)
    except TimeoutError:
        raise _unusable(f"takes more than {settings.decode_timeout:g} s to decode", param) from None
    except _TooLong:
        limit = f"{settings.max_seconds:g} s"
        raise ApiError(
            413,
            f"the audio is longer than {limit}, the most that one request may bring: cut it",
            param=param,
            code="audio_too_long",
        ) from None
    except UnknownFormat as problem:
        raise ApiError(415, f"the file {problem.said}", param=param, code="unknown_format") from problem
    except AudioProblem as problem:
        raise _unusable(problem.said, param) from problem
    finally:
        decoding.stop()
        await asyncio.wait([work])  # the folder may go when no thread writes into it
        work.exception()  # of a decoding that was given up, it is nobody's concern


def _unusable(said: str, param: str) -> ApiError:
    return ApiError(400, f"the file {said}", param=param, code="invalid_audio")


class _Decoding:
    """One decoding, run by a thread of its own until another stops it."""

    def __init__(self, folder: RequestFolder, settings: Settings) -> None:
        self._folder, self._settings = folder, settings
        self._stopped = threading.Event()
        self._ffmpeg: Ffmpeg | None = None

    def run(self) -> Decoded:
        """Decode all of it; what is longer than a piece goes into a file."""
        few, count = self._settings.piece_seconds * SAMPLE_RATE, 0
        kept: list[np.ndarray] = []
        blocks = self._counted()
        with room_on_disk():
            for block in blocks:
                kept.append(block)
                count += len(block)
                if count > few:
                    return self._in_file(chain(kept, blocks))
        if not count:
            raise AudioProblem("no samples", "holds no samples")
        return Decoded(count, kept[0] if len(kept) == 1 else np.concatenate(kept))

    def _in_file(self, blocks: Iterator[np.ndarray]) -> Decoded:
        path, count = self._folder.decoded, 0
        with path.open("wb") as out:
            for block in blocks:
                out.write(block.astype("<f4", copy=False).tobytes())
                count += len(block)
        return Decoded(count, path=path)

    def _counted(self) -> Iterator[np.ndarray]:
        count = 0
        for block in self._resampled():
            count += len(block)
            if count > self._settings.max_seconds * SAMPLE_RATE:
                raise _TooLong
            yield block

    def stop(self) -> None:
        """Let `run` end soon."""
        self._stopped.set()
        if self._ffmpeg is not None:
            self._ffmpeg.close()

    def _resampled(self) -> Iterator[np.ndarray]:
        resampler: soxr.ResampleStream | None = None
        for rate, mono in self._mono():
            if self._stopped.is_set():
                return
            if resampler is None and rate != SAMPLE_RATE:
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
            yield mono if resampler is None else resampler.resample_chunk(np.ascontiguousarray(mono))
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)

    def _mono(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the rate and blocks of mono samples at it."""
        try:
            with AudioReader(self._folder.source()) as reader:
                _check_kind(reader.rate, reader.channels)
                for block in reader.blocks():
                    yield reader.rate, block
        except UnknownFormat as problem:
            if problem.kind not in DEMUXERS or self._settings.ffmpeg is None:
                raise
            yield from self._by_ffmpeg(self._settings.ffmpeg, problem.kind)

    def _by_ffmpeg(self, command: str, kind: str) -> Iterator[tuple[int, np.ndarray]]:
        mixdown, at = Mixdown(), 0
        self._ffmpeg = Ffmpeg(command, self._folder.source_file(), kind, self._folder.log)
        try:
            for block in self._ffmpeg.blocks():
                if not at:
                    _check_kind(self._ffmpeg.rate, self._ffmpeg.channels)
                check_values(block, at, self._ffmpeg.rate)
                at += len(block)
                yield self._ffmpeg.rate, mixdown(block)
        finally:
            self._ffmpeg.close()


def _check_kind(rate: int, channels: int) -> None:
    """Raise AudioProblem where no recording has this rate in Hz and so many channels."""
    if not _RATES[0] <= rate <= _RATES[1] or rate * channels > _SAMPLES_A_SECOND:
        kind = f"{rate} Hz in {channels} channels"
        raise AudioProblem(f"{kind}, which no recording has", f"claims {kind}: convert it to 16 kHz mono")
