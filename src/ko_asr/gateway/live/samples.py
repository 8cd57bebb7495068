"""Streams of raw samples, decoded and resampled to 16 kHz as they come, at any packet size."""

from collections.abc import Awaitable, Callable

import numpy as np
import soxr

from ko_asr.runtime.frames import SAMPLE_RATE

Sink = Callable[[np.ndarray], Awaitable[None]]  # takes float32 [n] at 16 kHz; waits while it is behind
_FULL = 32768.0  # of 16 bits


class Resampler:
    """Mono float32 of any rate to 16 kHz, with nothing lost between packets."""

    def __init__(self, rate: int) -> None:
        """``rate`` in Hz."""
        self._rate = rate
        self._stream = self._new()

    def _new(self) -> soxr.ResampleStream | None:
        if self._rate == SAMPLE_RATE:
            return None
        return soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Resample float32 [n]; some samples come with the next ones."""
        if self._stream is None:
            return samples
        resampled: np.ndarray = self._stream.resample_chunk(samples)
        return resampled

    def flush(self) -> np.ndarray:
        """What is still to come; the next sample begins anew."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        last: np.ndarray = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self._stream = self._new()
        return last


class SampleDecoder:
    """Decodes LINEAR16, MULAW or ALAW into ``sink``; half a sample waits for its other half."""

    def __init__(self, read: Callable[[bytes], np.ndarray], width: int, rate: int, sink: Sink) -> None:
        """``read`` makes float32 of samples of ``width`` bytes at ``rate`` Hz."""
        self._read, self._width, self._sink = read, width, sink
        self._resampler, self._rest = Resampler(rate), b""

    async def write(self, data: bytes) -> None:
        """Decode bytes of any number."""
        data = self._rest + data
        whole = len(data) - len(data) % self._width
        self._rest = data[whole:]
        await self._give(self._resampler(self._read(data[:whole])))

    async def flush(self) -> None:
        """Give all that was written."""
        await self._give(self._resampler.flush())

    async def end(self) -> None:
        """Give the last samples; half a sample at the end is none."""
        await self.flush()

    async def close(self) -> None:
        """Nothing is held."""

    async def _give(self, samples: np.ndarray) -> None:
        if len(samples):
            await self._sink(samples)


def linear16(data: bytes) -> np.ndarray:
    """Signed 16 bits, little-endian, to float32."""
    samples: np.ndarray = np.multiply(np.frombuffer(data, "<i2"), np.float32(1 / _FULL), dtype=np.float32)
    return samples


def mulaw(data: bytes) -> np.ndarray:
    """G.711 mu-law to float32."""
    return _MULAW[np.frombuffer(data, np.uint8)]


def alaw(data: bytes) -> np.ndarray:
    """G.711 A-law to float32."""
    return _ALAW[np.frombuffer(data, np.uint8)]


def _mulaw_table() -> np.ndarray:
    code = ~np.arange(256, dtype=np.uint8)
    step = ((code & 15).astype(np.int32) << 3) + 132 << (code >> 4 & 7).astype(np.int32)
    return (np.where(code & 128, 132 - step, step - 132) / _FULL).astype(np.float32)


def _alaw_table() -> np.ndarray:
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    segment = (code >> 4 & 7).astype(np.int32)
    step = ((code & 15).astype(np.int32) << 4) + np.where(segment, 264, 8) << np.maximum(segment - 1, 0)
    return (np.where(code & 128, step, -step) / _FULL).astype(np.float32)


_MULAW, _ALAW = _mulaw_table(), _alaw_table()
