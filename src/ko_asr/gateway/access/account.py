"""What the holder of a key has on board, had today, and may still have, at one gateway."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import NoReturn

from ko_asr.gateway.access.key import Key
from ko_asr.gateway.access.store import Usage, today, until_tomorrow
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.errors import QUOTA, ApiError

Spent = dict[str, Usage]  # by day


class Allowance:
    """Seconds of audio a minute, as a bucket that fills all the time and starts full.

    Who has any may send a file of any length and goes into debt: with a window instead, a file of two minutes
    could never be sent with an allowance of one a minute.
    """

    def __init__(self, a_minute: float) -> None:
        self._most = self._left = a_minute
        self._at = time.monotonic()

    def take(self, seconds: float) -> None:
        """Take ``seconds``, more than there is as well."""
        self._fill()
        self._left -= seconds

    def wait(self) -> float:
        """Seconds until there is some; 0 when there is."""
        self._fill()
        return 0.0 if self._left > 0 else max(1.0, -self._left * 60 / self._most)

    def _fill(self) -> None:
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._at) * self._most / 60)
        self._at = now


class Account:
    """The account of one key. Only the event loop's thread may use it."""

    def __init__(self, key: Key) -> None:
        self._requests = self._streams = 0  # on board
        self._spent: Spent = {}  # not yet handed to the database
        self._handed: Spent = {}  # on its way there
        self._known: tuple[str, float] = ("", 0.0)  # a day, and seconds on it in the database
        self._allowance = None if key.limits.minute is None else Allowance(key.limits.minute)
        self.key = key  # replaced when it is revoked
        self.caller = Caller(key.id, self.spend)

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Have a request on board. ApiError 429 when the key may not."""
        self._check_count(self._requests, self.key.limits.requests, "requests")
        self._check_audio()
        self._note(Usage(requests=1))
        self._requests += 1
        try:
            yield
        finally:
            self._requests -= 1

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """Have a live stream on board. ApiError 429 when the key may not."""
        self._check_count(self._streams, self.key.limits.streams, "streams")
        self._check_audio()
        self._note(Usage(streams=1))
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def spend(self, seconds: float) -> None:
        """Take seconds of audio. ApiError when the key was revoked or has not so many: then none are."""
        self.key.check_good()
        self._check_audio(seconds)
        if self._allowance is not None:
            self._allowance.take(seconds)
        self._note(Usage(seconds=seconds))

    def hand_over(self) -> Spent:
        """What the database is to get now; `handed` or `kept` must follow."""
        self._handed, self._spent = self._spent, {}
        return self._handed

    def handed(self, day: str, seconds: float) -> None:
        """The database has it, and counts so many seconds on ``day``, of all gateways."""
        self._handed, self._known = {}, (day, seconds)

    def kept(self) -> None:
        """The database did not take it."""
        for day, usage in self._handed.items():
            self._spent[day] = self._spent.get(day, Usage()) + usage
        self._handed = {}

    def _note(self, usage: Usage) -> None:
        day = today()
        self._spent[day] = self._spent.get(day, Usage()) + usage

    def _seconds_today(self) -> float:
        day = today()
        known = self._known[1] if self._known[0] == day else 0.0
        return known + sum(spent[day].seconds for spent in (self._spent, self._handed) if day in spent)

    def _check_count(self, count: int, most: int | None, what: str) -> None:
        if most is not None and count >= most:
            sentence = f"the key {self.key.id} may have {most} {what} at a time: wait for one to end"
            raise ApiError(429, sentence, code="concurrency_limit_exceeded", retry_after=1)

    def _check_audio(self, seconds: float = 0.0) -> None:
        limits = self.key.limits
        if self._allowance is not None and (wait := self._allowance.wait()):
            self._refuse("minute", limits.minute, wait, "rate_limit_exceeded")
        if limits.day is not None:
            used = self._seconds_today()
            if used >= limits.day or used + seconds > limits.day:
                self._refuse("day", limits.day, until_tomorrow(), QUOTA, used)

    def _refuse(
        self, unit: str, limit: float | None, wait: float, code: str, used: float | None = None
    ) -> NoReturn:
        seconds = math.ceil(wait)
        of_it = "" if used is None or limit is None or used >= limit else f"{used:.0f} s of "
        more = ", and this audio is longer than the rest" if of_it else ""
        sentence = (
            f"the key {self.key.id} has used {of_it}its {limit:g} s of audio a {unit}{more}: wait {seconds} s"
        )
        raise ApiError(429, sentence, code=code, retry_after=seconds)
