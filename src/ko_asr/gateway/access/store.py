"""Keys and their usage in the database: the tables, and statements for `Database.run`."""

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    Row,
    String,
    Table,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ko_asr.gateway.access.key import Key, Limits, digest, new_id, new_secret
from ko_asr.gateway.database import METADATA

KOREA = timezone(timedelta(hours=9))  # in which a day begins; there is no daylight saving time
_SECONDS_AHEAD, _DAY_SECONDS = 9 * 3600, 24 * 3600

_KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(12), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("max_requests", Integer),
    Column("max_streams", Integer),
    Column("seconds_a_minute", Float),
    Column("seconds_a_day", Float),
    Column("metrics", Boolean, nullable=False),
    Column("created", Float, nullable=False),
    Column("revoked", Float),
)
_USAGE = Table(
    "api_usage",
    METADATA,
    Column("key_id", String(12), ForeignKey("api_keys.id"), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("requests", Integer, nullable=False),
    Column("streams", Integer, nullable=False),
    Column("seconds", Float, nullable=False),
)


@dataclass(frozen=True)
class Usage:
    """What a key had: requests and streams that were let in, seconds of audio."""

    requests: int = 0
    streams: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.requests + other.requests, self.streams + other.streams, self.seconds + other.seconds
        )


@dataclass(frozen=True)
class UsageRow:
    """The usage of one key on one day."""

    key_id: str
    name: str
    day: str
    usage: Usage


def today() -> str:
    """The day in Korea, as 2026-11-30."""
    return _day(int((time.time() + _SECONDS_AHEAD) // _DAY_SECONDS))


@functools.lru_cache(maxsize=2)
def _day(number: int) -> str:
    """The day by its number since 1970: live speech asks for it fifty times a second."""
    return datetime.fromtimestamp(number * _DAY_SECONDS, UTC).date().isoformat()


def until_tomorrow() -> float:
    """Seconds until the next day begins in Korea."""
    return _DAY_SECONDS - (time.time() + _SECONDS_AHEAD) % _DAY_SECONDS


def create(connection: Connection, name: str, limits: Limits, metrics: bool) -> tuple[Key, str]:
    """Make a key: what is kept, and its secret, which is not."""
    secret = new_secret()
    key = Key(new_id(), name, digest(secret), limits, metrics, time.time())
    connection.execute(
        insert(_KEYS).values(
            id=key.id,
            name=key.name,
            digest=key.digest,
            max_requests=limits.requests,
            max_streams=limits.streams,
            seconds_a_minute=limits.minute,
            seconds_a_day=limits.day,
            metrics=metrics,
            created=key.created,
        )
    )
    return key, secret


def revoke(connection: Connection, key_id: str) -> bool:
    """Revoke a key, for good; False where there is none that was good."""
    good = (_KEYS.c.id == key_id) & _KEYS.c.revoked.is_(None)
    return bool(connection.execute(update(_KEYS).where(good).values(revoked=time.time())).rowcount)


def keys(connection: Connection) -> list[Key]:
    """All keys, the revoked ones too, in the order they were made."""
    return [_key(row) for row in connection.execute(select(_KEYS).order_by(_KEYS.c.created))]


def _key(row: Row[tuple[object, ...]]) -> Key:
    limits = Limits(row.max_requests, row.max_streams, row.seconds_a_minute, row.seconds_a_day)
    return Key(row.id, row.name, row.digest, limits, row.metrics, row.created, row.revoked)


def add_usage(connection: Connection, found: Mapping[tuple[str, str], Usage]) -> None:
    """Add what keys had, by the key's id and the day."""
    if not found:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(_USAGE)
    counts = ("requests", "streams", "seconds")
    added = {name: _USAGE.c[name] + statement.excluded[name] for name in counts}
    connection.execute(
        statement.on_conflict_do_update(index_elements=["key_id", "day"], set_=added),
        [
            {"key_id": key_id, "day": day, **{name: getattr(usage, name) for name in counts}}
            for (key_id, day), usage in sorted(found.items())
        ],
    )


def seconds_on(connection: Connection, day: str) -> dict[str, float]:
    """The seconds of audio that keys had on ``day``, at all gateways."""
    rows = connection.execute(select(_USAGE.c.key_id, _USAGE.c.seconds).where(_USAGE.c.day == day))
    return {row.key_id: row.seconds for row in rows}


def usage(connection: Connection, key_id: str | None, since: str) -> list[UsageRow]:
    """The usage of one key, or of all, by day from ``since`` on."""
    statement = select(_USAGE, _KEYS.c.name).join(_KEYS).where(_USAGE.c.day >= since)
    if key_id:
        statement = statement.where(_USAGE.c.key_id == key_id)
    rows = connection.execute(statement.order_by(_USAGE.c.day, _KEYS.c.created))
    return [
        UsageRow(row.key_id, row.name, row.day, Usage(row.requests, row.streams, row.seconds)) for row in rows
    ]
