"""Work that nobody waits for any more is given up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request
from starlette.requests import ClientDisconnect


@contextlib.asynccontextmanager
async def while_connected(request: Request) -> AsyncIterator[None]:
    """Cancel the block when the client of ``request``, whose body is read, leaves.

    Raises ClientDisconnect then.
    """
    working = asyncio.current_task()
    assert working is not None
    before = working.cancelling()
    watch = asyncio.create_task(_gone(request))
    watch.add_done_callback(lambda done: None if done.cancelled() else working.cancel())
    try:
        yield
    except asyncio.CancelledError:
        if watch.done() and not watch.cancelled() and working.uncancel() <= before:
            raise ClientDisconnect from None
        raise
    finally:
        watch.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
