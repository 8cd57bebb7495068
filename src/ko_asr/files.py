"""Files that are written whole or not at all."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` and rename it over ``path`` when the block ends without error.

    A reader, or a run after a kill, sees the old content or the new, never half of it. Text is UTF-8.
    The folder is made when it is missing. Raises OSError as ``open`` does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # cut short, as a name of 255 bytes has no room for more
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:48]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
        os.chmod(temporary, 0o644)  # mkstemp makes 0600, which a server under another user could not read
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
