"""The connection ends with the answer to an upload that goes on: uvicorn would read all of it, for ever."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ko_asr.gateway.uploads import Uploads


class ClosesUnread:
    """ASGI application that closes the connection of a request that is answered in the middle of its body.

    Where nothing of the body was read it stays open: its client would see a reset instead of the answer.
    """

    def __init__(self, app: ASGIApp, uploads: Uploads) -> None:
        self._app, self._uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request as ``app`` does."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        inside, whole = False, False

        async def watched_receive() -> Message:
            nonlocal inside, whole
            message = await (receive() if whole else self._uploads.receive(receive))
            inside = message.get("more_body", False)
            whole = not inside
            return message

        async def closing_send(message: Message) -> None:
            if message["type"] == "http.response.start" and inside:
                MutableHeaders(scope=message)["connection"] = "close"
            await send(message)

        await self._app(scope, watched_receive, closing_send)
