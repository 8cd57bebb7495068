"""Messages of ended jobs: taken by one sender at a time, tried until they arrive or nothing helps.

Functions of one transaction each.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, Subquery, func, select, update

from ko_asr.gateway.jobs.tables import DELIVERED, DELIVERIES, GIVEN_UP, JOBS, PENDING, now


@dataclass(frozen=True)
class Delivery:
    """One message, and the number of this try, from 1."""

    id: str
    job_id: str
    kind: str
    url: str
    body: str
    attempt: int


def take(channel: str, seconds: float) -> Callable[[Connection], Delivery | None]:
    """Take a message that is due, for ``seconds``: then it is another's to try.

    It is one of the caller whose waiting messages were tried least, so that receivers that hang hold up their
    own caller only, and of his the one that has waited longest.
    """

    def work(connection: Connection) -> Delivery | None:
        moment, table = now(connection), DELIVERIES.c
        query = (
            select(DELIVERIES)
            .join(JOBS, JOBS.c.id == table.job_id)
            .join(tries := _tries(), tries.c.owner == JOBS.c.owner)
            .where(table.state == PENDING, table.next_at <= moment, table.channel == channel)
            .order_by(tries.c.count, table.next_at)
            .limit(1)
            .with_for_update(skip_locked=True, of=DELIVERIES)
        )
        row = connection.execute(query).mappings().first()
        if row is None:
            return None
        attempt = row["attempts"] + 1
        values = {"attempts": attempt, "next_at": moment + seconds}
        connection.execute(update(DELIVERIES).where(table.id == row["id"]).values(**values))
        return Delivery(row["id"], row["job_id"], row["kind"], row["url"], row["body"], attempt)

    return work


def _tries() -> Subquery:
    """How often the waiting messages of every caller were tried."""
    return (
        select(JOBS.c.owner, func.sum(DELIVERIES.c.attempts).label("count"))
        .join(JOBS, JOBS.c.id == DELIVERIES.c.job_id)
        .where(DELIVERIES.c.state == PENDING)
        .group_by(JOBS.c.owner)
        .subquery()
    )


def arrived(delivery: Delivery) -> Callable[[Connection], None]:
    """Note that it was taken."""
    return _note(delivery, state=DELIVERED, last="delivered")


def again(delivery: Delivery, wait: float, reason: str) -> Callable[[Connection], None]:
    """Try it again in ``wait`` seconds."""

    def work(connection: Connection) -> None:
        _note(delivery, next_at=now(connection) + wait, last=reason)(connection)

    return work


def give_up(delivery: Delivery, reason: str) -> Callable[[Connection], None]:
    """Never try it again."""
    return _note(delivery, state=GIVEN_UP, last=reason)


def disable(delivery: Delivery) -> Callable[[Connection], None]:
    """Never try anything at its address again that waits now: 410 was the answer."""

    def work(connection: Connection) -> None:
        there = (DELIVERIES.c.url == delivery.url, DELIVERIES.c.state == PENDING)
        connection.execute(update(DELIVERIES).where(*there).values(state=GIVEN_UP, last="410"))

    return work


def _note(delivery: Delivery, **values: object) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        # One that was taken by another meanwhile may have arrived there.
        mine = (DELIVERIES.c.id == delivery.id, DELIVERIES.c.state == PENDING)
        connection.execute(update(DELIVERIES).where(*mine).values(**values))

    return work
