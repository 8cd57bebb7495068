"""The streams that a step of the server keeps: bounded in number, and forgotten when no request comes.

Triton does not notify a Python model when a client vanishes, so a step that keeps state needs a time to live
of its own. Runs inside the server: standard library only.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

State = TypeVar("State")


class StreamTable(Generic[State]):
    """State by correlation id, least recently used first.

    >>> table = StreamTable(limit=1, time_to_live=60.0)
    >>> table.open(7, "a"), table.open(8, "b"), table.get(7), table.get(8)
    (True, False, 'a', None)
    """

    def __init__(
        self, limit: int | None, time_to_live: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep at most ``limit`` streams (None: any), each ``time_to_live`` seconds from its last use."""
        self.limit, self.time_to_live, self._clock = limit, time_to_live, clock
        self._streams: OrderedDict[int | str, tuple[float, State]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, key: int | str, state: State) -> bool:
        """Begin a stream, or begin ``key`` anew; False, and nothing is kept, when there is no room."""
        self._expire()
        self._streams.pop(key, None)
        if self.limit is not None and len(self._streams) >= self.limit:
            return False
        self._streams[key] = (self._clock(), state)
        return True

    def get(self, key: int | str) -> State | None:
        """The state of a live stream, which counts as a use."""
        self._expire()
        found = self._streams.pop(key, None)
        if found is None:
            return None
        self._streams[key] = (self._clock(), found[1])
        return found[1]

    def close(self, key: int | str) -> None:
        """Forget a stream, if it is there."""
        self._streams.pop(key, None)

    def _expire(self) -> None:
        oldest_allowed = self._clock() - self.time_to_live
        while self._streams and next(iter(self._streams.values()))[0] < oldest_allowed:
            self._streams.popitem(last=False)
