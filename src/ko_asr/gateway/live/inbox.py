"""The messages of one WebSocket, read a little ahead, so that a client that leaves is noticed at once."""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from ko_asr.gateway.settings.gateway import MIB

LOG = logging.getLogger("ko_asr.gateway")
_AHEAD = MIB  # bytes that may wait; then the socket is not read, and the client has to wait
_OF_A_MESSAGE = 256  # bytes that an empty one takes as well
_SEND_SECONDS = 60.0  # in which a client must take an answer
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_FAILED = 1011  # close codes of RFC 6455's registry
RESTART = 1012  # the server is restarted


class Inbox:
    """What a client has sent and nobody has handled yet."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._messages: deque[Message] = deque()
        self._bytes, self.stopping = 0, False
        self._come, self._room = asyncio.Event(), asyncio.Event()

    async def get(self) -> str | bytes | None:
        """The next message; None when the gateway stops and no more are to be handled."""
        while not self._messages:
            if self.stopping:
                return None
            self._come.clear()
            await self._come.wait()
        message = self._messages.popleft()
        self._bytes -= _size(message)
        self._room.set()
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    def stop(self) -> None:
        """Let `get` give what has come and then None."""
        self.stopping = True
        self._come.set()

    async def fill(self) -> None:
        """Read messages until the client has left."""
        while (message := await self._websocket.receive())["type"] == "websocket.receive":
            while self._bytes >= _AHEAD:
                self._room.clear()
                await self._room.wait()
            self._messages.append(message)
            self._bytes += _size(message)
            self._come.set()


class Sockets:
    """The WebSockets of one gateway that are open."""

    def __init__(self) -> None:
        self._open: set[Inbox] = set()
        self._stopping = False

    async def serve(self, websocket: WebSocket, handle: Callable[[Inbox], Awaitable[None]]) -> None:
        """Let ``handle`` serve an accepted ``websocket``; it is cancelled when the client leaves."""
        inbox, began = Inbox(websocket), time.monotonic()
        inbox.stopping = self._stopping
        self._open.add(inbox)
        work, gone = asyncio.ensure_future(handle(inbox)), asyncio.create_task(inbox.fill())
        try:
            await asyncio.wait([work, gone], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(inbox)
            LOG.info("WebSocket %s ended after %.1f s", websocket.url.path, time.monotonic() - began)
            for task in (work, gone):
                task.cancel()
            _, answer = await asyncio.gather(gone, work, return_exceptions=True)
        if isinstance(answer, Exception) and not isinstance(answer, WebSocketDisconnect):
            LOG.error("a WebSocket failed", exc_info=answer)
            with contextlib.suppress(WebSocketDisconnect, RuntimeError):
                await websocket.close(_FAILED)

    async def stop(self, seconds: float) -> None:
        """Let every socket end what it has; those that take longer are left to the server."""
        self._stopping = True
        for inbox in list(self._open):
            inbox.stop()
        deadline = asyncio.get_running_loop().time() + seconds
        while self._open and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)


async def tell(websocket: WebSocket, data: dict[str, Any]) -> None:
    """Send a JSON object. WebSocketDisconnect when the client is gone or takes nothing any more."""
    try:
        async with asyncio.timeout(_SEND_SECONDS):
            await websocket.send_text(_encode(data))
    except TimeoutError:
        raise WebSocketDisconnect(1006) from None


def _size(message: Message) -> int:
    return _OF_A_MESSAGE + len(message.get("text") or message.get("bytes") or "")
