"""The body of a request that has no file, read whole."""

from fastapi import Request

from ko_asr.gateway.audio.upload import drain
from ko_asr.gateway.errors import ApiError

_DRAIN_BYTES = 1 << 20


async def read_body(request: Request, most: int) -> bytes:
    """Read up to ``most`` bytes. ApiError for more, which FastAPI's own bound would answer in plain text."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            await drain(request, _DRAIN_BYTES)
            raise ApiError(413, f"the body is larger than {most} bytes: send less")
    return body
