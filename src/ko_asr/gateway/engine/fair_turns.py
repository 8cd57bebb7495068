"""Turns at the server, shared fairly between callers, and between the requests of one.

A file of two hours does not delay one of two seconds, nor do twenty files of one caller another's.
"""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable

_Turns = deque[asyncio.Future[None]]


class FairTurns:
    """So many turns at a time; who waits gets them round robin by caller, and of one caller by owner."""

    def __init__(self, turns: int) -> None:
        """ValueError unless ``turns`` is positive."""
        if turns < 1:
            raise ValueError(f"need at least one turn, not {turns}")
        self._free = turns
        self._waiting: OrderedDict[Hashable, OrderedDict[Hashable, _Turns]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def turn(self, owner: Hashable, caller: Hashable = None) -> AsyncIterator[None]:
        """Hold one turn for the length of the block; ``owner`` is a request of ``caller``."""
        await self._take(owner, caller)
        try:
            yield
        finally:
            self._give_back()

    async def _take(self, owner: Hashable, caller: Hashable) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, OrderedDict()).setdefault(owner, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it came at the same moment
                self._give_back()
            raise

    def _give_back(self) -> None:
        while self._waiting:
            if not (turn := self._next()).done():
                turn.set_result(None)
                return
        self._free += 1

    def _next(self) -> asyncio.Future[None]:
        caller, owners = next(iter(self._waiting.items()))
        owner, turns = next(iter(owners.items()))
        turn = turns.popleft()
        self._waiting.move_to_end(caller)
        owners.move_to_end(owner)
        if not turns:
            del owners[owner]
        if not owners:
            del self._waiting[caller]
        return turn
