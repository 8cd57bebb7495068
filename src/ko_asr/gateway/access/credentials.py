"""What a client shows: a key or a token, in the header or, from browsers' WebSockets, as a subprotocol."""

from starlette.requests import HTTPConnection

_SUBPROTOCOL = "openai-insecure-api-key."


def credential(connection: HTTPConnection) -> str | None:
    """The key or token of a request or a WebSocket, unchecked; None without one."""
    scheme, _, text = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    for offered in connection.scope.get("subprotocols", ()):
        if offered.startswith(_SUBPROTOCOL):
            return str(offered.removeprefix(_SUBPROTOCOL))
    return None
