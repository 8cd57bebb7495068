"""Which versions of the model answered a request, noted on the way for its header."""

from contextvars import ContextVar

_VERSIONS: ContextVar[set[str] | None] = ContextVar("versions", default=None)


def begin() -> set[str]:
    """Begin a request: the set that will hold its versions, also those noted in its tasks."""
    found: set[str] = set()
    _VERSIONS.set(found)
    return found


def note(version: str) -> None:
    """Note that ``version`` has answered a part of this request, where one has begun."""
    if (found := _VERSIONS.get()) is not None:
        found.add(version)
