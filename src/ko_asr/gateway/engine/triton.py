"""Triton servers as an engine: ``asr`` and ``asr_streaming`` over gRPC, of one or more versions."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from ko_asr.client.connection import AnswerTimeout, ServerError, ServerUnavailable
from ko_asr.client.offline import Transcription
from ko_asr.gateway import answered_by
from ko_asr.gateway.engine.engine import LiveStream
from ko_asr.gateway.engine.pool import Pool
from ko_asr.gateway.engine.server import Server, may_go_elsewhere, none_left
from ko_asr.gateway.engine.stream_route import StreamRoute
from ko_asr.gateway.engine.versions import order
from ko_asr.gateway.settings.addresses import DEFAULT_VERSION
from ko_asr.gateway.settings.engine import Group
from ko_asr.runtime.options import StreamOptions


class TritonEngine:
    """The servers of all versions. A key asks its own version while a server of that is healthy."""

    def __init__(self, groups: Sequence[Group], timeout: float, health_timeout: float = 10.0) -> None:
        """Connect in a running loop; nothing is sent yet.

        ``timeout`` in seconds bounds a file; after ``health_timeout`` without any answer a server is out.
        """
        self._timeout = timeout
        self._pools = {group.version: Pool(group, timeout, health_timeout) for group in groups}
        self._weights = {group.version: group.weight for group in groups}

    @property
    def servers(self) -> list[Server]:
        """All servers now."""
        return [server for pool in self._pools.values() for server in pool.servers]

    async def transcribe(
        self, samples: np.ndarray, key: str = "", keywords: tuple[str, ...] = ()
    ) -> Transcription:
        """Transcribe like `Engine.transcribe`. What a server that died leaves undone, one other does."""
        deadline = asyncio.get_running_loop().time() + self._timeout
        server = await self._for_file(key)
        if server is None:
            raise none_left()
        try:
            answer = await self._ask(server, samples, key, keywords)
        except ServerError as error:
            other = await self._for_file(key, [server]) if may_go_elsewhere(error) else None
            if other is None:
                raise
            server, answer = other, await self._ask_until(deadline, other, samples, keywords)
        if server.version != DEFAULT_VERSION:
            answered_by.note(server.version)
        return answer

    async def open_stream(self, options: StreamOptions, key: str = "") -> LiveStream:
        """Begin a stream like `Engine.open_stream`, resumed on another server when its own dies."""
        return await StreamRoute(lambda tried: self._for_stream(key, tried)).open(options)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(pool.close() for pool in self._pools.values()))

    async def _ask(
        self, server: Server, samples: np.ndarray, key: str, keywords: tuple[str, ...]
    ) -> Transcription:
        """Ask ``server``; give up when it is out meanwhile and another one could be asked."""
        asking = asyncio.ensure_future(server.transcribe(samples, keywords))
        try:
            waiting: list[asyncio.Future[Any]] = [asking, server.lost]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done() and await self._for_file(key, [server]) is None:
                await asyncio.wait([asking])
            if asking.done():
                return asking.result()
            raise ServerUnavailable("UNAVAILABLE", f"{server.url} has stopped answering")
        finally:
            asking.cancel()

    async def _ask_until(
        self, deadline: float, server: Server, samples: np.ndarray, keywords: tuple[str, ...]
    ) -> Transcription:
        try:
            async with asyncio.timeout_at(deadline):
                return await server.transcribe(samples, keywords)
        except TimeoutError:
            late = f"no answer from two servers within {self._timeout:g} s"
            raise AnswerTimeout("DEADLINE_EXCEEDED", late) from None

    async def _for_file(self, key: str, tried: Collection[Server] = ()) -> Server | None:
        for version in order(key, self._weights):
            if server := await self._pools[version].for_file(tried):
                return server
        return None

    async def _for_stream(self, key: str, tried: Collection[Server] = ()) -> Server | None:
        for version in order(key, self._weights):
            if server := await self._pools[version].for_stream(tried):
                return server
        return None
