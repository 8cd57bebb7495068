"""An upload of any format to 16 kHz mono in a file of float32, in memory that does not grow with it.

libsndfile decodes in a thread what it can, under the library's own reader, and ffmpeg in a process the rest.
What a header says of the length is never believed: seconds are counted as they come.
"""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import soxr

from ko_asr.audio.problem import AudioProblem, UnknownFormat
from ko_asr.gateway.audio.folders import RequestFolder, room_on_disk
from ko_asr.gateway.audio.sound import Sound
from ko_asr.gateway.audio.wanted import Wanted
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.runtime.frames import SAMPLE_RATE


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

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """Yield [n] with n <= ``size``."""
        if self.path is None:
            assert self.whole is not None
            yield from (self.whole[at : at + size] for at in range(0, self.samples, size))
            return
        with self.path.open("rb") as file:
            while len(block := np.fromfile(file, "<f4", count=size)):
                yield block


_SLICE = 0.5  # seconds of a decoder before it lets others go on
_THREADS = max(4, os.cpu_count() or 1)
T = TypeVar("T")


class Decoders:
    """Threads that decode, a slice at a time, and one of them only what has just come.

    So nothing waits for a small file that unpacks to hours.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, "decode")
        self._later = asyncio.Semaphore(_THREADS - 1)

    async def run(self, one: Callable[[], T | None]) -> T:
        """Call ``one``, a slice of the work, until it has the result."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._pool, one)
        while found is None:
            async with self._later:
                found = await loop.run_in_executor(self._pool, one)
        return found

    def close(self) -> None:
        """Wait until all have ended."""
        self._pool.shutdown()


class _TooLong(Exception):
    """More audio than a request may bring."""


async def decode(folder: RequestFolder, param: str, settings: Settings, decoders: Decoders) -> Decoded:
    """Decode the upload of ``folder``. ApiError, with ``param``, where it cannot be used or is too long."""
    (mixed,) = await decode_channels(folder, param, settings, decoders, Wanted())
    return mixed


async def decode_channels(
    folder: RequestFolder, param: str, settings: Settings, decoders: Decoders, wanted: Wanted
) -> list[Decoded]:
    """Decode the upload of ``folder``: all channels mixed, or each for itself. ApiError like `decode`."""
    decoding = _Decoding(folder, settings, wanted)
    work = asyncio.create_task(decoders.run(decoding.go_on))
    try:
        async with asyncio.timeout(settings.decode_timeout):
            return await asyncio.shield(work)
    except TimeoutError:
        raise _unusable(f"takes more than {settings.decode_timeout:g} s to decode", param) from None
    except _TooLong:
        limit = f"{settings.max_seconds:g} s"
        longer = settings.max_seconds < settings.jobs.max_seconds
        instead = "send it to /v1/jobs" if longer else "cut it"
        of_each = ", its channels counted each" if wanted.separate else ""
        raise ApiError(
            413,
            f"the audio is longer than {limit}{of_each}, the most that is taken here: {instead}",
            param=param,
            code="audio_too_long",
        ) from None
    except UnknownFormat as problem:
        raw = "" if problem.kind else "; samples without a header need encoding and sample_rate"
        raise ApiError(415, f"the file {problem.said}{raw}", param=param, code="unknown_format") from problem
    except AudioProblem as problem:
        raise _unusable(problem.said, param) from problem
    finally:
        decoding.stop()
        await asyncio.wait([work])  # the folder may go when no thread writes into it
        work.exception()  # of a decoding that was given up, it is nobody's concern


def _unusable(said: str, param: str) -> ApiError:
    return ApiError(400, f"the file {said}", param=param, code="invalid_audio")


class _Decoding:
    """One decoding, in slices, until another thread stops it."""

    def __init__(self, folder: RequestFolder, settings: Settings, wanted: Wanted) -> None:
        self._folder, self._settings = folder, settings
        self._stopped = threading.Event()
        self._sound = Sound(folder, wanted, settings.ffmpeg)
        self._steps = self._all()

    def go_on(self) -> list[Decoded] | None:
        """Decode a slice of it; a result a channel when all is done, else None."""
        end = time.monotonic() + _SLICE
        try:
            while time.monotonic() < end:
                next(self._steps)
        except StopIteration as done:
            return list(done.value)
        return None

    def _all(self) -> Generator[None, None, list[Decoded]]:
        """Decode all of it, a step a block; what is longer than a piece goes into files."""
        few, count = self._settings.piece_seconds * SAMPLE_RATE, 0
        kept: list[np.ndarray] = []
        blocks = self._counted()
        with room_on_disk():
            for block in blocks:
                yield
                kept.append(block)
                count += len(block)
                if count > few:
                    return (yield from self._in_files(chain(kept, blocks), block.shape[1]))
        if not count:
            raise AudioProblem("no samples", "holds no samples")
        whole = kept[0] if len(kept) == 1 else np.concatenate(kept)
        return [Decoded(count, np.ascontiguousarray(channel)) for channel in whole.T]

    def _in_files(self, blocks: Iterator[np.ndarray], channels: int) -> Generator[None, None, list[Decoded]]:
        paths, count = [self._folder.decoded(number) for number in range(channels)], 0
        with contextlib.ExitStack() as files:
            outs = [files.enter_context(path.open("wb")) for path in paths]
            for block in blocks:
                yield
                count += len(block)
                for out, channel in zip(outs, block.T, strict=True):
                    out.write(channel.astype("<f4", copy=False).tobytes())
        return [Decoded(count, path=path) for path in paths]

    def _counted(self) -> Iterator[np.ndarray]:
        count = 0
        for block in self._resampled():
            count += block.size  # every channel is recognised
            if count > self._settings.max_seconds * SAMPLE_RATE:
                raise _TooLong
            yield block

    def stop(self) -> None:
        """Let the next slice be the last."""
        self._stopped.set()
        self._sound.close()

    def _resampled(self) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels] at 16 kHz."""
        resampler: soxr.ResampleStream | None = None
        channels = 1
        for rate, block in self._sound.blocks():
            if self._stopped.is_set():
                return
            if resampler is None and rate != SAMPLE_RATE:
                channels = block.shape[1]
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, channels, dtype="float32", quality="HQ")
            yield block if resampler is None else resampler.resample_chunk(np.ascontiguousarray(block))
        if resampler is not None:
            yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)
