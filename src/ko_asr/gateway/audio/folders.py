"""Temporary files: a folder a request, within a folder a gateway, which the next one removes after a kill."""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path

from ko_asr.gateway.errors import ApiError

_PREFIX = "ko-asr-gateway-"
_LOCK = "lock"


class Workspace:
    """The folder of one gateway, locked for as long as the process lives, with room for so many requests."""

    def __init__(self, parent: Path, most: int) -> None:
        """Make it in ``parent``, and remove those there that gateways left which were killed. OSError.

        ``most`` requests may have a folder at a time.
        """
        _remove_abandoned(parent)
        self._places, self._share = most, max(1, 3 * most // 4)
        self._held: Counter[str] = Counter()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self) -> None:
        """Remove it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def request_folder(self, owner: str | None = None) -> "RequestFolder":
        """A place for the files of one request. ApiError when all are taken.

        One ``owner`` of several gets three quarters: its slow uploads do not shut out all others.
        """
        if not self._places:
            raise ApiError(429, "the gateway is full: try again later", code="full", retry_after=1)
        if owner is not None and self._held[owner] >= self._share:
            sentence = f"this key has {self._share} requests on board: try again later"
            raise ApiError(429, sentence, code="full", retry_after=1)
        self._places -= 1
        if owner is not None:
            self._held[owner] += 1
        return RequestFolder(self.path, partial(self._leave, owner))

    def job_folder(self) -> "RequestFolder":
        """The files of a job, which takes no place of a request."""
        return RequestFolder(self.path, lambda: None)

    def remove_abandoned(self) -> None:
        """Remove what processes left beside it that were killed."""
        _remove_abandoned(self.path.parent, older_than=60.0)

    def _leave(self, owner: str | None) -> None:
        self._places += 1
        if owner is not None:
            self._held[owner] -= 1
            self._held += Counter()  # without those that hold none


class RequestFolder:
    """The files of one request: what was uploaded, and what was decoded of it.

    A small upload stays in memory, as ``content``; the folder is made when it is first asked for.
    """

    def __init__(self, parent: Path, on_removal: Callable[[], None]) -> None:
        self._parent, self._on_removal = parent, on_removal
        self.content: bytes | None = None
        self._removed = False

    @cached_property
    def path(self) -> Path:
        """The folder."""
        return Path(tempfile.mkdtemp(dir=self._parent))

    @property
    def upload(self) -> Path:
        """What was uploaded, if it is not in memory."""
        return self.path / "upload"

    def decoded(self, channel: int) -> Path:
        """What was decoded of it, of one channel or of all."""
        return self.path / f"decoded{channel}"

    @property
    def log(self) -> Path:
        """A decoder's messages."""
        return self.path / "log"

    def source(self) -> Path | BytesIO:
        """What was uploaded, where it is."""
        return self.upload if self.content is None else _Memory(self.content)

    def source_file(self) -> Path:
        """What was uploaded, as a file. OSError when it cannot be written."""
        if self.content is not None and not self.upload.exists():
            self.upload.write_bytes(self.content)
        return self.upload

    async def remove(self) -> None:
        """Remove the folder; a second time does nothing."""
        if not self._removed:
            self._removed = True
            self._on_removal()
            if "path" in vars(self):
                await asyncio.to_thread(shutil.rmtree, self.path, ignore_errors=True)


class _Memory(BytesIO):
    """Bytes in which a decoder that follows a wrong header may seek before the beginning."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self.getbuffer().nbytes}[whence]
        return super().seek(max(0, base + offset))


@contextlib.contextmanager
def room_on_disk() -> Iterator[None]:
    """Turn a full disk into 507, so that nobody takes it for a bad request."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise ApiError(
            507, "the gateway's disk is full: try again later", code="disk_full", retry_after=30
        ) from error


def _remove_abandoned(parent: Path, older_than: float = 0.0) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime > time.time() - older_than:  # its owner may be about to lock it
                continue
            lock = os.open(folder / _LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
