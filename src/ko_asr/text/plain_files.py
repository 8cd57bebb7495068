"""Text files and word lists that people write, a sentence or word a line."""

from collections.abc import Iterator
from pathlib import Path

from ko_asr.errors import UserError


def text_lines(path: str | Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, with or without a byte order mark, without those that are blank.

    Raises UserError with line and byte for another encoding, OSError as ``open`` does.
    """
    place = 0
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}:{number} is not UTF-8 text (byte {place + error.start} of the file): convert it "
                    f"first, as in iconv -f CP949 -t UTF-8 {path} > utf8.txt"
                ) from error
            place += len(line)
            yield from (part.strip() for part in text.split("\r") if part.strip())
