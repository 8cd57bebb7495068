"""What a connection may take before anybody knows whose it is: bounds on what comes and time for it to come.

uvicorn has none: a head that never ends, trailers behind a body, or requests that come faster than their
answers are read would fill the memory, and connections that say nothing would take every file handle.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS

_MOST_HEAD = 64 << 10  # bytes that bring neither the end of a head nor any of a body
_MOST_WAITING = 100  # requests that wait for the answer to one before them on the same connection
_AROUND = 32  # bytes of a line beside an address, or a header's name and value
_HEAD_SECONDS = 30.0  # for a head, from the connection or from its first byte
_MOST_UNREAD = 1 << 20  # bytes of answers to pings that a client leaves unread


class Connection(HttpToolsProtocol):
    """One connection, which is closed when it goes beyond the bounds."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._got_on, self._head_bytes = False, 0
        self._deadline: asyncio.TimerHandle | None = None

    # uvicorn's protocol narrows asyncio's BaseTransport in the same way.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_HEAD_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        self._got_on = False
        super().data_received(data)
        self._head_bytes = 0 if self._got_on else self._head_bytes + len(data)
        if len(self.pipeline) > _MOST_WAITING:
            self.transport.abort()
        elif self._head_bytes > _MOST_HEAD and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        if self._deadline is None:
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._got_on = True
        self._disarm()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        self._got_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A body is whole."""
        self._got_on = True
        super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        """Hand over to a WebSocket, whose library would leave a longer handshake unanswered."""
        headers = list(self.scope["headers"])
        longest = max(len(self.url), *(len(name) + len(value) for name, value in headers))
        if longest + _AROUND > MAX_LINE_LENGTH or len(headers) > MAX_NUM_HEADERS:
            self._refuse()
        else:
            super().handle_websocket_upgrade()

    def _refuse(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.send_400_response("The head of the request is too large: send less.")
        else:
            self.transport.abort()

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class LiveConnection(WebSocketsSansIOProtocol):
    """A WebSocket, which is closed when it asks for more answers to pings than it reads."""

    def handle_ping(self) -> None:
        """Answer a ping."""
        super().handle_ping()
        if self.transport.get_write_buffer_size() > _MOST_UNREAD:
            self.transport.abort()
