"""The uploads of jobs, in a folder or in S3, until their job has ended."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, S3Store

from ko_asr.errors import UserError
from ko_asr.gateway.audio.folders import room_on_disk
from ko_asr.gateway.errors import ApiError

_PREFIX = "uploads"
_CHUNK = 8 << 20  # bytes; two of them are in memory
_FULL = tuple(f"(os error {number})" for number in (28, 122, 27))  # ENOSPC, EDQUOT, EFBIG
_PLACE_IS_FULL = "the gateway's disk is full: try again later"
FilesError = (BaseError, OSError)  # its own errors derive from both


class Files:
    """Objects by key. Methods block: call them in a thread (the library's own coroutines abort at exit)."""

    def __init__(self, place: str) -> None:
        """Open ``place``: a folder, or s3://bucket/prefix with the usual AWS variables. UserError."""
        self._folder: Path | None = None
        self._store: LocalStore | S3Store
        try:
            if place.startswith("s3://"):
                self._store = S3Store.from_url(place)
            else:
                self._folder = Path(place)
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._store = LocalStore(self._folder)
        except (BaseError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"the place {place} for files cannot be used ({reason}): see --files") from error

    def key(self, name: str) -> str:
        """The key of a file that belongs to ``name``."""
        return f"{_PREFIX}/{name}"

    def put(self, key: str, source: Path | bytes) -> None:
        """Store ``source``, a file or its bytes. ApiError when there is no room, or nobody answers."""
        try:
            obstore.put(self._store, key, source, chunk_size=_CHUNK, max_concurrency=2)
        except FilesError as error:
            if any(number in str(error) for number in _FULL):
                raise ApiError(507, _PLACE_IS_FULL, code="disk_full", retry_after=30) from error
            raise _away() from error

    def get(self, key: str, target: Path) -> None:
        """Copy an object into ``target``. FileNotFoundError; ApiError where that fails."""
        try:
            stream = obstore.get(self._store, key).stream(min_chunk_size=1 << 20)
            with target.open("wb") as file:
                for chunk in stream:
                    with room_on_disk():
                        file.write(chunk)
        except FileNotFoundError:
            raise
        except FilesError as error:
            raise _away() from error

    def delete(self, key: str) -> None:
        """Remove an object; one that is gone is no error. ApiError when nobody answers."""
        try:
            obstore.delete(self._store, key)
        except FileNotFoundError:
            pass
        except FilesError as error:
            raise _away() from error

    def older_than(self, seconds: float) -> Iterator[list[str]]:
        """Yield the keys of objects that have lain there for so long, some at a time. ApiError."""
        before = datetime.fromtimestamp(time.time() - seconds, UTC)
        try:
            for found in obstore.list(self._store, _PREFIX, chunk_size=500):
                yield [meta["path"] for meta in found if meta["last_modified"] < before]
        except FilesError as error:
            raise _away() from error

    def remove_unfinished(self, seconds: float) -> None:
        """Remove what writers that died left unfinished in a folder; S3 does so by a lifecycle rule."""
        if self._folder is None:
            return
        for path in (self._folder / _PREFIX).glob("*#*"):
            if path.stat().st_mtime < time.time() - seconds:
                path.unlink(missing_ok=True)


def _away() -> ApiError:
    return ApiError(503, "the store of files does not answer: try again later", code="store", retry_after=30)
