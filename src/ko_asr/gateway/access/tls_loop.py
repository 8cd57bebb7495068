"""An event loop whose TLS connections end when the gateway does.

A client that keeps an idle connection does not answer TLS's farewell, for which asyncio waits half a minute.
"""

from typing import Any

import uvloop

_SECONDS = 1.0


class TlsLoop(uvloop.Loop):
    """uvicorn's loop; uvicorn has no option for this time."""

    async def create_server(self, *arguments: Any, **options: Any) -> Any:
        """Make a server whose connections wait a second at most for the client's farewell."""
        return await super().create_server(*arguments, **options, ssl_shutdown_timeout=_SECONDS)
