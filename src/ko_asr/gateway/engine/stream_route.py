"""The way of one live stream: it stays with its server, and goes to another one when that dies."""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from ko_asr.client.connection import ServerError
from ko_asr.client.protocol import ChunkSizes
from ko_asr.client.streaming import Connection, open_stream
from ko_asr.gateway.engine.engine import LiveStream, Served
from ko_asr.gateway.engine.server import Server, may_go_elsewhere, none_left
from ko_asr.gateway.settings.addresses import DEFAULT_VERSION
from ko_asr.runtime.options import StreamOptions

Choose = Callable[[Collection[Server]], Awaitable[Server | None]]  # but those; None where none is left


class StreamRoute:
    """A `ko_asr.client.streaming.Route` over the servers of ``choose``; ``served`` is told versions."""

    def __init__(self, choose: Choose, served: Served) -> None:
        self._choose, self._served = choose, served
        self._server: Server | None = None  # of this sequence
        self._sizes: ChunkSizes | None = None
        self._counted = False  # at the server, as under way

    async def open(self, options: StreamOptions) -> LiveStream:
        """Begin the stream. Raises ServerError."""
        return await open_stream(self, Connection("the servers"), options)

    async def begin(self) -> ChunkSizes:
        """Choose the server of the next sequence."""
        self._end()
        tried: list[Server] = []
        failure: ServerError = none_left()
        while (server := await self._choose(tried)) is not None:
            tried.append(server)
            try:
                self._sizes = await server.sizes()
            except ServerError as error:
                failure = error
                continue
            self._use(server)
            return self._sizes
        raise failure

    async def infer(self, **arguments: Any) -> Any:
        """Send one request of this sequence; its first one to another server where that one has no place."""
        assert self._server is not None
        if arguments["sequence_start"]:
            return await self._start(arguments)
        try:
            return await self._server.infer(**arguments)
        finally:
            if arguments["sequence_end"]:
                self._end()

    async def _start(self, arguments: dict[str, Any]) -> Any:
        tried: list[Server] = []
        while True:
            assert self._server is not None
            self._count(self._server)
            tried.append(self._server)
            try:
                return await self._server.infer(**arguments)
            except ServerError as error:
                other = await self._choose(tried) if may_go_elsewhere(error) else None
                if other is None or await other.sizes() != self._sizes:
                    raise
                self._end()
                self._use(other)
            finally:
                if arguments["sequence_end"]:
                    self._end()

    def _use(self, server: Server) -> None:
        self._server = server
        if server.version != DEFAULT_VERSION:
            self._served(server.version)

    def _count(self, server: Server) -> None:
        self._counted = True
        server.streams_in_flight += 1
        server.streams += 1

    def _end(self) -> None:
        if self._counted and self._server is not None:
            self._server.streams_in_flight -= 1
        self._counted = False
