"""Lists that a user writes: an entry a line; a line that begins with # is a comment."""

from collections.abc import Iterator
from pathlib import Path

from ko_asr.errors import UserError

_MOST_BYTES = 4 << 20  # some 200,000 terms, which take 300 MB when they are compiled


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the number and text of each line that is an entry.

    UserError for a file that cannot be read, is longer than 4 MiB or is not UTF-8, with the line that is not.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): check the path") from error
    if len(data) > _MOST_BYTES:
        raise UserError(f"{path}: longer than {_MOST_BYTES >> 20} MiB: a list has a word or term a line")
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), 1):
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number}: not UTF-8: save the file as UTF-8") from error
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, line
