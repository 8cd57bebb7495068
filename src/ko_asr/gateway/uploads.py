"""Requests whose bodies have not come whole, which a gateway that stops does not wait for."""

import asyncio

from starlette.types import Message, Receive

from ko_asr.gateway.errors import ApiError


class Uploads:
    """What is still being sent to one gateway."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Timeout] = set()
        self._cut = False

    async def receive(self, receive: Receive) -> Message:
        """The next message of a body. ApiError once the uploads are cut."""
        try:
            async with asyncio.timeout(0 if self._cut else None) as wait:
                self._waits.add(wait)
                try:
                    return await receive()
                finally:
                    self._waits.discard(wait)
        except TimeoutError:
            raise stopping() from None

    def cut(self) -> None:
        """Let nobody wait for the rest of a body, from now on."""
        self._cut = True
        for wait in self._waits:
            wait.reschedule(0)


def stopping() -> ApiError:
    """The refusal of what cannot end before the gateway does."""
    return ApiError(503, "the gateway is being stopped: send it again", code="stopping", retry_after=5)
