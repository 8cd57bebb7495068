"""Memory of a preparation between runs: which FLAC files are whole, and the figures measured on them.

A FLAC file counts as done only when it is recorded here after it was written, with its size and with the
signature of the audio it came from. So after a kill at any point the next run repeats what was in flight
and nothing else, and a changed source file is converted again.
"""

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ko_asr.audio.corpus_audio import AudioFacts
from ko_asr.errors import UserError

_COMMIT_SECONDS = 2.0  # work that a kill can cost
_COLUMNS = ("id", "signature", "size", "repairs", "digest", *AudioFacts._fields)
VERSION = 2  # raise when the columns or their meaning change: old records are then ignored


class AudioRecord(NamedTuple):
    """One utterance's finished FLAC: a file, or a member of a shard."""

    id: str
    signature: str
    size: int
    repairs: tuple[str, ...]
    digest: int  # of the samples: `corpus_audio.flac_digest`
    facts: AudioFacts


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one preparation at a time; UserError when another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".prepare.lock").open("w", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another run is writing to {folder}: wait for it, or choose another --out"
            ) from error
        yield


class State:
    """Records of finished files in ``folder``/.prepare.sqlite, which one corpus has for its own.

    Raises UserError when ``folder`` holds another corpus, whose manifests would be overwritten.
    """

    def __init__(self, folder: Path, corpus: str) -> None:
        self.path = folder / ".prepare.sqlite"
        self._corpus = corpus
        try:
            self._connect()
        except sqlite3.DatabaseError:  # cut off by a power failure: everything is simply done again
            self.path.unlink(missing_ok=True)
            self._connect()
        self._committed = time.monotonic()

    def _connect(self) -> None:
        self._database = sqlite3.connect(self.path)
        self._database.execute("PRAGMA synchronous=NORMAL")
        if self._database.execute("PRAGMA user_version").fetchone()[0] != VERSION:
            self._database.execute("DROP TABLE IF EXISTS audio")
            self._database.execute(f"PRAGMA user_version={VERSION}")
        self._claim()
        columns = ", ".join(f"{name} PRIMARY KEY" if name == "id" else name for name in _COLUMNS)
        self._database.execute(f"CREATE TABLE IF NOT EXISTS audio({columns}) WITHOUT ROWID")

    def _claim(self) -> None:
        self._database.execute("CREATE TABLE IF NOT EXISTS corpus(name)")
        owners = [name for (name,) in self._database.execute("SELECT name FROM corpus")]
        if not owners:
            self._database.execute("INSERT INTO corpus VALUES (?)", [self._corpus])
        elif owners != [self._corpus]:
            raise UserError(f"{self.path.parent} holds {owners[0]}: choose another --out for {self._corpus}")

    def find(self, ids: Sequence[str]) -> dict[str, AudioRecord]:
        """Return the records of those of ``ids`` that have one."""
        marks = ",".join("?" * len(ids))
        query = f"SELECT {', '.join(_COLUMNS)} FROM audio WHERE id IN ({marks})"
        return {row[0]: _record(row) for row in self._database.execute(query, list(ids))}

    def add(self, records: Iterable[AudioRecord]) -> None:
        """Remember files that are whole on disk. Raises UserError when the disk is full."""
        marks = ",".join("?" * len(_COLUMNS))
        rows = [(r.id, r.signature, r.size, "|".join(r.repairs), r.digest, *r.facts) for r in records]
        try:
            if rows:
                self._database.executemany(f"INSERT OR REPLACE INTO audio VALUES ({marks})", rows)
            if time.monotonic() - self._committed > _COMMIT_SECONDS:
                self.commit()
        except sqlite3.OperationalError as error:
            raise UserError(
                f"cannot write {self.path} ({error}): free space, then run the same command"
            ) from error

    def commit(self) -> None:
        """Make what was added survive a kill."""
        self._database.commit()
        self._committed = time.monotonic()

    def close(self) -> None:
        """Keep what was added and let go of the file."""
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk: the run already failed with that
            self._database.commit()
        self._database.close()


def _record(row: Sequence[Any]) -> AudioRecord:
    identifier, mark, size, joined, digest, *facts = row
    repairs = tuple(joined.split("|")) if joined else ()
    return AudioRecord(identifier, mark, size, repairs, digest, AudioFacts(*facts))
