"""The HTTP server, which lets live speech come to its end before it stops, and uploads that are about to."""

import asyncio
import logging
import socket

import uvicorn

from ko_asr.gateway.live.inbox import Sockets
from ko_asr.gateway.uploads import Uploads

_SECONDS = 10.0  # for the last finals
_UPLOAD_SECONDS = 3.0  # for the rest of a body
_REFUSED = "ASGI callable returned without completing handshake."


class LiveServer(uvicorn.Server):
    """uvicorn with the WebSockets and the uploads of one gateway."""

    def __init__(self, config: uvicorn.Config, live: Sockets, uploads: Uploads) -> None:
        super().__init__(config)
        self._live, self._uploads = live, uploads
        # uvicorn logs each handshake that is refused with an answer as an error of the application.
        logging.getLogger("uvicorn.error").addFilter(lambda record: record.msg != _REFUSED)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: no more connections, the finals of live speech, then what has come whole."""
        for server in self.servers:
            server.close()
        asyncio.get_running_loop().call_later(_UPLOAD_SECONDS, self._uploads.cut)
        await self._live.stop(_SECONDS)
        await super().shutdown(sockets)
