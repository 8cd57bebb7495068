"""What pages in a browser may do with a gateway that has no keys: nothing, but its own and those allowed.

Every page that somebody opens can send requests to 127.0.0.1. A browser says where the page is from (Origin);
a page whose own name suddenly points to 127.0.0.1 (DNS rebinding) is known by that name (Host).
"""

import ipaddress

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ko_asr.gateway.access.refusal import refuse
from ko_asr.gateway.errors import ApiError

ANY_HOST = "*"
_HEADERS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}


class OwnPages:
    """Refuse what other pages send, unless they are in ``origins``; ``hosts`` are names of this gateway."""

    def __init__(self, app: ASGIApp, origins: tuple[str, ...], hosts: tuple[str, ...]) -> None:
        self._app, self._origins, self._hosts = app, origins, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or one WebSocket."""
        if scope["type"] in ("http", "websocket"):
            try:
                self._check(Headers(scope=scope))
            except ApiError as error:
                await refuse(error, scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        known = ANY_HOST in self._hosts or _name(host) in self._hosts
        if host and not (known or is_unforgeable(host)):
            raise ApiError(403, f"{host[:60]!r} is no name of this gateway: allow it with --allow-host")
        if origin is None or origin in self._origins or origin.lower().partition("://")[2] == host:
            return
        raise ApiError(
            403, f"pages of {origin[:60]!r} may not use this gateway: allow it with --allow-origin"
        )


class SafeHeaders:
    """Tell browsers to take answers as what they say they are."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or one WebSocket."""

        async def safe_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, safe_send)


def is_unforgeable(host: str) -> bool:
    """True for a Host that no page on the internet can have as its own: an address, or a name without a dot.

    >>> [is_unforgeable(host) for host in ("127.0.0.1:9000", "[::1]:9000", "localhost", "evil.example:9000")]
    [True, True, True, False]
    """
    name = _name(host)
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return "." not in name
    return True


def _name(host: str) -> str:
    """A Host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
