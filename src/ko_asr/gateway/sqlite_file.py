"""The file of an SQLite database: a process goes on in a file that was deleted, and all is gone when it ends.

So every transaction looks, under its lock, whether its file is the one at the path. Where none is there, it
is written again from the open connection, with everything that was in it.
"""

import contextlib
import logging
import os
import secrets
import sqlite3
import time
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError, SQLAlchemyError

LOG = logging.getLogger("ko_asr.gateway")
_FILE = "file"
_PATIENCE = 1.0  # seconds


class Moved(SQLAlchemyError):
    """The connection's file is not the one at the path: connect again."""


class SqliteFile:
    """The file at the path of a database, made with a mode that lets nobody else read it. OSError."""

    def __init__(self, path: Path) -> None:
        self.path, self.lost = path, False
        _make_private(path)

    @classmethod
    def of(cls, address: URL) -> "SqliteFile | None":
        """The file of a database; None where it has none of its own."""
        name = address.database or ""
        plain = address.get_backend_name() == "sqlite" and name not in ("", ":memory:")
        return cls(Path(name).absolute()) if plain and not name.startswith("file:") else None

    def watch(self, engine: Engine) -> None:
        """Let the connections of ``engine`` make no file, and know theirs."""
        event.listen(engine, "do_connect", self._open_existing)
        event.listen(engine, "connect", self._remember)

    def check(self, connection: Connection) -> None:
        """Raise Moved unless the file of ``connection``, which holds the write lock, is there.

        OperationalError where none is there and none can be written.
        """
        there = _identity(self.path)
        if there is not None and there == connection.info[_FILE]:
            self.lost = False
            return
        if there is None:
            try:
                self._write_again(connection.connection.dbapi_connection)
            except (OSError, sqlite3.Error) as error:
                self.lost = True
                raise OperationalError("the file of the database is gone", None, error) from error
        raise Moved

    def _open_existing(self, dialect: Any, record: Any, names: list[Any], options: dict[str, Any]) -> None:
        names[0], options["uri"] = f"{self.path.as_uri()}?mode=rw", True
        deadline = time.monotonic() + _PATIENCE
        while not self.path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # whoever has it open writes it again

    def _remember(self, connection: Any, record: Any) -> None:
        record.info[_FILE] = _identity(self.path)

    def _write_again(self, connection: Any) -> None:
        new = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}")
        _make_private(new)
        try:
            with new.open("wb") as file:
                file.write(connection.serialize())  # a backup may not be made while it holds the lock
                file.flush()
                os.fsync(file.fileno())
            for kind in ("-wal", "-shm"):  # the deleted file's would be read into the new one
                self.path.with_name(self.path.name + kind).unlink(missing_ok=True)
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(new, self.path)
        finally:
            new.unlink()
        LOG.warning("the file of the database was gone: it is written again, with all that was in it")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _make_private(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        path.touch(0o600)
