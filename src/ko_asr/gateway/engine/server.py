"""One Triton server of many: its connections, what is under way there, and whether it can be asked.

It is out from the moment that a request finds it dead or too late, or that an inference of our own does;
then it is tried again after ever longer pauses, and taken back when it answers.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

import numpy as np

from ko_asr.client.connection import (
    AnswerTimeout,
    RequestRefused,
    ServerError,
    ServerUnavailable,
    StreamsFull,
)
from ko_asr.client.offline import AsyncAsrClient, Transcription
from ko_asr.client.protocol import ChunkSizes
from ko_asr.client.streaming import AsyncStreamingClient
from ko_asr.runtime.frames import SAMPLE_RATE

Answer = TypeVar("Answer")
LOG = logging.getLogger("ko_asr.gateway")
_INTERVAL = 3.0  # seconds without an answer after which an inference is made
_PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before an inference at a server that is out; the last repeats
_QUEUE_FULL = "maximum queue size"  # in Triton's message, where a model has a max_queue_size


def is_full(error: ServerError) -> bool:
    """True where a server lives and has no room."""
    return isinstance(error, StreamsFull) or _QUEUE_FULL in str(error.__cause__)


def may_go_elsewhere(error: ServerError) -> bool:
    """True where another server may answer what this one did not."""
    return not isinstance(error, RequestRefused)


def none_left() -> ServerUnavailable:
    """The error where no server is healthy."""
    return ServerUnavailable("UNAVAILABLE", "no server is healthy")


class Server:
    """A server at ``url``, host:port, of one version of the model."""

    def __init__(self, url: str, version: str, timeout: float, silence: float, healthy: bool = True) -> None:
        """Connect in a running loop; nothing is sent yet.

        ``timeout`` in seconds bounds a file; after ``silence`` without any answer the server is out.
        """
        self.url, self.version, self.healthy, self._silence = url, version, healthy, silence
        self.files_in_flight = self.streams_in_flight = self.files = self.streams = self.failures = 0
        self._files, self._streams = AsyncAsrClient(url, timeout), AsyncStreamingClient(url)
        self._was_out = False  # since its sizes were asked for
        self._answered = time.monotonic()
        self._wake = asyncio.Event()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()  # done while it is out
        self._watching = asyncio.create_task(self._watch())

    @property
    def busy(self) -> bool:
        """True while something is under way here."""
        return bool(self.files_in_flight or self.streams_in_flight)

    async def close(self) -> None:
        """Give up watching, and close the connections."""
        self._watching.cancel()
        await asyncio.wait([self._watching])
        await self._files.__aexit__()
        await self._streams.__aexit__()

    async def transcribe(self, samples: np.ndarray, keywords: tuple[str, ...] = ()) -> Transcription:
        """Transcribe float32 [n] with words. Raises ServerError."""
        self.files_in_flight, self.files = self.files_in_flight + 1, self.files + 1
        try:
            return await self._noticed(self._files.transcribe(samples, words=True, keywords=keywords))
        finally:
            self.files_in_flight -= 1

    async def sizes(self) -> ChunkSizes:
        """The chunk sizes of its streams; another model may be there after it was out. Raises ServerError."""
        found = await self._noticed(self._streams.sizes(again=self._was_out))
        self._was_out = False
        return found

    async def infer(self, **arguments: Any) -> Any:
        """Send one request of a stream. Raises ServerError."""
        return await self._noticed(self._streams.infer(**arguments))

    async def _noticed(self, request: Awaitable[Answer]) -> Answer:
        """Draw from the fate of ``request`` what it says about the server."""
        try:
            answer = await request
        except ServerError as error:
            self._failed(error)
            raise
        self._answered = time.monotonic()
        return answer

    def _failed(self, error: ServerError) -> None:
        if isinstance(error, RequestRefused) or is_full(error):
            self._answered = time.monotonic()
            return
        self.failures += 1
        self._wake.set()
        if isinstance(error, ServerUnavailable | AnswerTimeout):
            self._set_healthy(False, str(error))

    def _set_healthy(self, healthy: bool, why: str) -> None:
        if healthy != self.healthy:
            LOG.warning("Triton at %s is %s: %s", self.url, "back" if healthy else "out", why)
        self.healthy = healthy
        if healthy and self.lost.done():
            self.lost = asyncio.get_running_loop().create_future()
        elif not healthy:
            self._was_out = True
            if not self.lost.done():
                self.lost.set_result(None)

    async def _watch(self) -> None:
        attempts = 0
        while True:
            if self.healthy:
                await self._until_suspicious()
                attempts = 0
            if not self.healthy:
                await asyncio.sleep(_PAUSES[min(attempts, len(_PAUSES) - 1)])
                attempts += 1
            await self._probe()

    async def _until_suspicious(self) -> None:
        """Wait until something has failed, or nothing was answered for a while."""
        self._wake.clear()
        while not self._wake.is_set() and (left := self._answered + _INTERVAL - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._wake.wait()

    async def _probe(self) -> None:
        """Make an inference; that others were answered meanwhile is as good."""
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self._silence):
                await self._files.transcribe(np.zeros(SAMPLE_RATE, np.float32))
        except TimeoutError:
            self._set_healthy(self._answered > begun, f"nothing was answered for {self._silence:g} s")
        except ServerError as error:
            self._set_healthy(is_full(error) or self._answered > begun, str(error))
        else:
            self._answered = time.monotonic()
            self._set_healthy(True, "it answers")
