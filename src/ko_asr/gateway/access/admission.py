"""Who may come in: an ASGI application before all others, which reads no body."""

import contextlib
import ipaddress

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ko_asr.gateway.access.account import Account
from ko_asr.gateway.access.accounts import Accounts
from ko_asr.gateway.access.credentials import credential
from ko_asr.gateway.access.refusal import refuse
from ko_asr.gateway.caller import set_caller
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.settings.access import Network

METRICS = "/metrics"
_OPEN = ("/", "/openapi.json", "/favicon.ico")  # and what begins so:
_OPEN_BELOW = ("/health/", "/page/")
_AUTHENTICATE = "/rtzr/v1/authenticate"  # its body holds the key
_READING = ("GET", "HEAD", "OPTIONS", "DELETE")  # they cost nothing, and are not limited
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


class Admission:
    """Let in who has a key (everybody where ``accounts`` is None), within the key's limits.

    The figures may be read from the networks ``metrics_from`` without a key.
    """

    def __init__(
        self, app: ASGIApp, accounts: Accounts | None, metrics_from: tuple[Network, ...], trusts_proxy: bool
    ) -> None:
        self._app, self._accounts = app, accounts
        self._metrics_from, self._trusts_proxy = metrics_from, trusts_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or one WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with contextlib.ExitStack() as board:
            try:
                await self._admit(HTTPConnection(scope), board)
            except ApiError as error:
                await refuse(error, scope, receive, send)
                return
            await self._app(scope, receive, send)

    async def _admit(self, connection: HTTPConnection, board: contextlib.ExitStack) -> None:
        path, method = connection.scope["path"], connection.scope.get("method")
        if path == METRICS:
            await self._admit_to_figures(connection)
        elif self._accounts is not None and not is_open(path, method):
            account = await self._account(connection, self._accounts)
            set_caller(connection, account.caller)
            if method is None:
                board.enter_context(account.stream())
            elif method not in _READING:
                board.enter_context(account.request())

    async def _admit_to_figures(self, connection: HTTPConnection) -> None:
        if self._is_near(connection):
            return
        if self._accounts is None:
            raise ApiError(403, "the figures are not for other machines: see --metrics-from")
        if not (await self._account(connection, self._accounts)).key.metrics:
            raise ApiError(403, "this key may not read the figures: make one with --metrics")

    async def _account(self, connection: HTTPConnection, accounts: Accounts) -> Account:
        shown = credential(connection)
        if shown is None:
            raise ApiError(401, "send an API key, as Authorization: Bearer KEY", code="invalid_api_key")
        return await accounts.of(shown, connection.scope["path"])

    def _is_near(self, connection: HTTPConnection) -> bool:
        """True for a client in ``metrics_from``; a proxy there whose word is not taken is not the client."""
        if connection.client is None:
            return False
        if not self._trusts_proxy and any(name in connection.headers for name in _FORWARDED):
            return False
        try:
            address = ipaddress.ip_address(connection.client.host)
        except ValueError:
            return False
        return any(address in network for network in self._metrics_from)


def is_open(path: str, method: str | None) -> bool:
    """True for a route that needs no key; ``method`` is None for a WebSocket."""
    if method == "POST":
        return bool(path == _AUTHENTICATE)
    return method in ("GET", "HEAD") and (path in _OPEN or path.startswith(_OPEN_BELOW))
