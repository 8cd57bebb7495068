"""Live speech of one socket: encoded bytes in, results out, one stream of the recogniser after another.

A stream takes a place on the server, so none is open before audio comes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np

from ko_asr.client.connection import ServerError
from ko_asr.errors import UserError
from ko_asr.finishing.options import FinishOptions
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.engine.engine import LiveStream
from ko_asr.gateway.engine.recogniser import Recogniser, api_error
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.live.encodings import LINEAR16, make_decoder
from ko_asr.gateway.metrics import Metrics
from ko_asr.gateway.written.finishing import Finishing
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result

Take = Callable[[Result], Awaitable[None]]
_PIECE = 1 << 15  # bytes that are decoded at once


class Speech:
    """The audio of one socket. Use it in ``async with``; its methods raise ApiError.

    ``take`` gets the results in order, their times in ms since the first sample of the socket.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        finishing: Finishing,
        metrics: Metrics,
        ffmpeg: str | None,
        caller: Caller,
        take: Take,
    ) -> None:
        """``ffmpeg`` is the command for compressed audio; without it that is refused."""
        self._recogniser, self._metrics, self._ffmpeg = recogniser, metrics, ffmpeg
        self._caller, self._take, self._finishing = caller, take, finishing
        self.options = StreamOptions()  # of the next stream
        self.version = ""  # of the model that hears this one, where versions are named
        self.written: FinishOptions | None = None  # of the next stream: results tell their written form
        self._decoder = make_decoder(LINEAR16, SAMPLE_RATE, self._hear, ffmpeg)
        self._stream: LiveStream | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._samples = 0

    async def __aenter__(self) -> "Speech":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.ensure_future(self._close()))

    @property
    def milliseconds(self) -> int:
        """Audio so far."""
        return 1000 * self._samples // SAMPLE_RATE

    async def use(self, encoding: str, rate: int) -> None:
        """Take audio in ``encoding`` from here on; ``rate`` in Hz is that of raw samples."""
        made = make_decoder(encoding, rate, self._hear, self._ffmpeg)
        await self._decoder.close()
        self._decoder = made

    async def send(self, data: bytes) -> None:
        """Take encoded audio; waits while the recogniser is behind."""
        for at in range(0, len(data), _PIECE):
            await self._decoder.write(data[at : at + _PIECE])

    async def flush(self) -> None:
        """Let `milliseconds` count all that was sent."""
        await self._decoder.flush()

    async def end_utterance(self) -> None:
        """End the stream; its last final has been taken when this returns. Audio may go on."""
        await self.flush()
        await self._finish()

    async def end(self) -> None:
        """End the audio; the last final has been taken when this returns."""
        await self._decoder.end()
        await self._finish()

    async def drop(self) -> None:
        """Give up what is not final. Its place is freed also where the client leaves meanwhile."""
        stream, delivery, self._stream, self._delivery = self._stream, self._delivery, None, None
        await asyncio.shield(asyncio.ensure_future(self._free(stream, delivery)))

    async def _free(self, stream: LiveStream | None, delivery: asyncio.Task[None] | None) -> None:
        if delivery is not None:
            delivery.cancel()
            await asyncio.gather(delivery, return_exceptions=True)
        if stream is not None:
            self._metrics.streams.dec()
            await stream.close()

    async def _close(self) -> None:
        await self._decoder.close()
        await self.drop()

    async def _hear(self, samples: np.ndarray) -> None:
        seconds = len(samples) / SAMPLE_RATE
        self._caller.spend(seconds)
        self._metrics.streamed.inc(seconds)
        try:
            if self._stream is None:
                await self._open()
            assert self._stream is not None and self._delivery is not None
            if self._delivery.done():
                await self._delivery
            self._samples += len(samples)
            await self._stream.send(samples)
        except UserError as error:
            raise await self._failure(error) from error

    async def _open(self) -> None:
        self._stream = await self._recogniser.open_stream(self.options, self._caller, self._served)
        self._metrics.streams.inc()
        self._delivery = asyncio.create_task(self._deliver(self._stream, self.milliseconds))

    def _served(self, version: str) -> None:
        self.version = version

    async def _deliver(self, stream: LiveStream, later: int) -> None:
        written = self._finishing.live(self.written) if self.written else None
        async for result in stream:
            shown = await written(result) if written else result
            await self._take(_shifted(shown, later))

    async def _finish(self) -> None:
        if self._stream is None or self._delivery is None:
            return
        try:
            await self._stream.finish()
            await asyncio.shield(self._delivery)
        except UserError as error:
            raise await self._failure(error) from error
        await self.drop()

    async def _failure(self, error: UserError) -> ApiError:
        """The ApiError for a failed stream, whose place is freed."""
        await self.drop()
        if isinstance(error, ServerError):
            return api_error(error)
        return ApiError(400, str(error), code="audio_refused")


def _shifted(result: Result, later: int) -> Result:
    if not later:
        return result
    words = tuple(
        replace(word, start_ms=word.start_ms + later, end_ms=word.end_ms + later) for word in result.words
    )
    return replace(result, start_ms=result.start_ms + later, end_ms=result.end_ms + later, words=words)
