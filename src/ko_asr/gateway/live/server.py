"""The HTTP server, which lets live speech come to its end before it stops."""

import logging
import socket

import uvicorn

from ko_asr.gateway.live.inbox import Sockets

_SECONDS = 10.0  # for the last finals
_REFUSED = "ASGI callable returned without completing handshake."


class LiveServer(uvicorn.Server):
    """uvicorn with the WebSockets of one gateway."""

    def __init__(self, config: uvicorn.Config, live: Sockets) -> None:
        super().__init__(config)
        self._live = live
        # uvicorn logs each handshake that is refused with an answer as an error of the application.
        logging.getLogger("uvicorn.error").addFilter(lambda record: record.msg != _REFUSED)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: no more connections, the finals of live speech, then everything else."""
        for server in self.servers:
            server.close()
        await self._live.stop(_SECONDS)
        await super().shutdown(sockets)
