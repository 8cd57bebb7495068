"""An answer to a client that is not let in, before its body is read."""

import asyncio
import contextlib

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ko_asr.gateway.errors import ApiError

_DRAIN_BYTES = 2 << 20
_DRAIN_SECONDS = 5.0


async def refuse(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer ``error`` to a request or to the handshake of a WebSocket, in the shape of its path's API."""
    response = error.response(scope["path"])
    if scope["type"] == "websocket":
        await _refuse_handshake(response, scope, receive, send)
    elif scope["method"] in ("GET", "HEAD", "OPTIONS") or "expect" in Headers(scope=scope):
        await response(scope, receive, send)
    else:
        await _answer_early(response, receive, send)


async def _refuse_handshake(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()  # websocket.connect
    if "websocket.http.response" in scope.get("extensions", {}):
        start = {"status": response.status_code, "headers": response.raw_headers}
        await send({"type": "websocket.http.response.start", **start})
        await send({"type": "websocket.http.response.body", "body": bytes(response.body)})
    else:
        await send({"type": "websocket.close", "code": 1008})


async def _answer_early(response: Response, receive: Receive, send: Send) -> None:
    """Send all of the answer, read on a little, and close.

    A client that only sends until it is through would see a reset instead of the answer.
    """
    start: Message = {"status": response.status_code, "headers": response.raw_headers}
    start["type"] = "http.response.start"
    MutableHeaders(raw=start["headers"])["connection"] = "close"
    await send(start)
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    left = _DRAIN_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0 and (message := await receive()).get("more_body"):
                left -= len(message.get("body", b""))
    await send({"type": "http.response.body", "body": b"", "more_body": False})
