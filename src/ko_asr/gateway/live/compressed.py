"""Streams of compressed audio, decoded by ffmpeg between two pipes, confined as in audio/ffmpeg.py."""

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE, Process

import numpy as np

from ko_asr.audio.mixdown import Mixdown
from ko_asr.gateway.audio.ffmpeg import AU_HEADER, au_header, decoding
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.live.samples import Resampler, Sink

_HEADERLESS = {"AMR": "amrnb", "AMR_WB": "amrwb"}  # bare frames; with the header of a file it is "amr"
DEMUXERS = {"FLAC": "flac", "OGG_OPUS": "ogg", **_HEADERLESS}
_AMR_FILE = b"#!AMR"
# Not "-fflags nobuffer": it drops the first frames.
_LOW_DELAY = ("-flags", "low_delay", "-probesize", "32", "-analyzeduration", "0")
_CPU_SECONDS = 3600  # decodes days of speech
_READ = 1 << 15  # bytes
_QUIET = 0.05  # seconds in which ffmpeg gives what it was given
_RATES, _MOST_CHANNELS = (4_000, 384_000), 8


class FfmpegDecoder:
    """Decodes one stream into ``sink``. The pipes are short: who writes waits while the sink is behind."""

    def __init__(self, command: str, encoding: str, sink: Sink) -> None:
        """Nothing runs before the first bytes come."""
        self._command, self._encoding, self._sink = command, encoding, sink
        self._process: Process | None = None
        self._reading: asyncio.Task[None] | None = None

    async def write(self, data: bytes) -> None:
        """Decode bytes of any number. ApiError when they are damaged."""
        if not data:
            return
        if self._process is None:
            await self._start(data)
        assert self._process is not None and self._process.stdin is not None and self._reading is not None
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except OSError:
            await self._reading
            raise self._damaged() from None
        if self._reading.done():
            await self._reading

    async def flush(self) -> None:
        """Give what is decoded; the stream goes on."""
        await asyncio.sleep(_QUIET)

    async def end(self) -> None:
        """End the audio; all of it has been given when this returns. ApiError when it is damaged."""
        if self._process is None:
            return
        assert self._process.stdin is not None and self._reading is not None
        self._process.stdin.close()
        await self._reading

    async def close(self) -> None:
        """End the process."""
        if self._process is not None and self._reading is not None:
            self._kill()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            await self._process.wait()

    async def _start(self, first: bytes) -> None:
        file = self._encoding in _HEADERLESS and _AMR_FILE.startswith(first[: len(_AMR_FILE)])
        demuxer = "amr" if file else DEMUXERS[self._encoding]
        arguments = decoding(self._command, demuxer, "pipe:0", *_LOW_DELAY, cpu_seconds=_CPU_SECONDS)
        self._process = await asyncio.create_subprocess_exec(
            *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=_READ, cwd="/", env={"LC_ALL": "C"}
        )
        self._reading = asyncio.create_task(self._read(self._process))

    async def _read(self, process: Process) -> None:
        assert process.stdout is not None
        try:
            with contextlib.suppress(asyncio.IncompleteReadError):  # it ends before any sound
                begin, rate, channels = au_header(await process.stdout.readexactly(AU_HEADER))
                if not _RATES[0] <= rate <= _RATES[1] or channels > _MOST_CHANNELS:
                    raise self._damaged()
                await process.stdout.readexactly(begin - AU_HEADER)
                await self._read_samples(process.stdout, Resampler(rate), channels)
            if await process.wait():
                raise self._damaged()
        finally:
            self._kill()  # so that nobody waits to write into it

    async def _read_samples(self, source: asyncio.StreamReader, resample: Resampler, channels: int) -> None:
        mix, frame, rest = Mixdown(), 4 * channels, b""
        while data := await source.read(_READ):
            data = rest + data
            whole = len(data) // frame
            rest = data[whole * frame :]
            block = np.frombuffer(data, ">f4", count=whole * channels).astype(np.float32)
            await self._give(resample(np.ascontiguousarray(mix(block.reshape(-1, channels)))))
        await self._give(resample.flush())

    async def _give(self, samples: np.ndarray) -> None:
        if len(samples):
            await self._sink(samples)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.kill()

    def _damaged(self) -> ApiError:
        return ApiError(400, f"the audio is damaged or not {self._encoding}", code="invalid_audio")
