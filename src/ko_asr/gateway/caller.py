"""Who makes a request: found once, before its body is read, and asked for leave by what costs something."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection

_STATE = "caller"


def _free(_: float) -> None:
    return None


@dataclass(frozen=True)
class Caller:
    """The holder of a key, by the key's public ``name``; without keys everybody is the same caller.

    ``spend`` takes seconds of audio and raises ApiError when the key has none left. Turns at the recogniser
    are shared between callers.
    """

    name: str = "local"
    spend: Callable[[float], None] = _free


EVERYBODY = Caller()


def set_caller(connection: HTTPConnection, caller: Caller) -> None:
    """Let ``connection``, a request or a WebSocket, be made by ``caller``."""
    setattr(connection.state, _STATE, caller)


def caller_of(connection: HTTPConnection) -> Caller:
    """The caller of a request or a WebSocket."""
    found = getattr(connection.state, _STATE, EVERYBODY)
    assert isinstance(found, Caller)
    return found
