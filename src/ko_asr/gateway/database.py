"""One database for what gateways share: keys, usage, jobs. SQLite for one host, PostgreSQL for many.

Tables are defined by the modules that use them, in `METADATA`; those that are missing are made on opening.
Statements run in threads, each in a transaction of its own.
"""

import argparse
import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, MetaData, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ko_asr.errors import UserError
from ko_asr.gateway.sqlite_file import Moved, SqliteFile

METADATA = MetaData()
_BUSY_SECONDS = 30.0  # that a writer of SQLite waits for another one
T = TypeVar("T")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `url_of` reads."""
    parser.add_argument("--database", metavar="URL", help="keys and jobs (sqlite:///DATA/gateway.db)")
    parser.add_argument(
        "--data", type=Path, default=default_data(), help=f"folder of what is kept ({default_data()})"
    )


def url_of(args: argparse.Namespace) -> str:
    """The address of the database on the command line of `add_options`."""
    return args.database or f"sqlite:///{args.data.absolute() / 'gateway.db'}"


def default_data() -> Path:
    """Where this user's programs keep what outlives them."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "ko-asr-gateway"


class Database:
    """A database by its SQLAlchemy address: sqlite:///gateway.db or postgresql+psycopg://user@host/name."""

    def __init__(self, url: str) -> None:
        """Connect and make the tables that are missing. UserError when that fails."""
        try:
            address = make_url(url)
            lite, self.file = address.get_backend_name() == "sqlite", SqliteFile.of(address)
            arguments: dict[str, Any] = {}
            if lite and "timeout" not in address.query:
                arguments["timeout"] = _BUSY_SECONDS
            self._engine = create_engine(address, pool_pre_ping=True, connect_args=arguments)
            if lite:
                event.listen(self._engine, "connect", _set_up_sqlite)
                event.listen(self._engine, "begin", _begin_immediate)
            if self.file:
                self.file.watch(self._engine)
            METADATA.create_all(self._engine)
            strange = _strange_table(self._engine)
        except (ArgumentError, SQLAlchemyError, ImportError, OSError) as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise UserError(
                f"the database {_shown(url)} cannot be opened ({reason}): see --database"
            ) from error
        if strange:
            raise UserError(
                f"the database {_shown(url)} is another version's: its table {strange} has other columns; "
                "give another --data or --database, or remove it (keys, usage and jobs go with it)"
            )

    def run_now(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction, in this thread. SQLAlchemyError when it fails."""
        try:
            return self._run_once(work)
        except Moved:
            self._engine.dispose()  # what is in use meanwhile finds out by itself
            return self._run_once(work)

    def _run_once(self, work: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            if self.file:
                self.file.check(connection)
            return work(connection)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run ``work`` in one transaction, in another thread. SQLAlchemyError when it fails."""
        return await asyncio.to_thread(self.run_now, work)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _strange_table(engine: Engine) -> str:
    """The first table that lacks a column, or empty: create_all makes tables, and never changes one."""
    there = inspect(engine)
    for table in METADATA.sorted_tables:
        if set(table.columns.keys()) - {column["name"] for column in there.get_columns(table.name)}:
            return table.name
    return ""


def _shown(url: str) -> str:
    """The address without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "(malformed)"


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_immediate
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_immediate(connection: Connection) -> None:
    """Take the write lock at once: a reader that becomes a writer would fail instead of waiting."""
    connection.exec_driver_sql("BEGIN IMMEDIATE")
