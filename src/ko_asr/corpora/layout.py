"""Search and reading of the files of a corpus, shared by several readers."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError

AUDIO_EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".pcm", ".raw")


def existing_folder(root: str | Path) -> Path:
    """Return ``root`` as a path; UserError when it is no folder."""
    root = Path(root)
    if not root.is_dir():
        raise UserError(f"no folder at {root}: give the folder that the corpus was unpacked into")
    return root


def outside_of(corpus: Path, out: Path) -> None:
    """Refuse an ``out`` in the corpus (UserError): the next run would take its own output for recordings."""
    if out.absolute().is_relative_to(corpus.absolute()):
        raise UserError(f"--out {out} lies inside the corpus {corpus}: choose a folder outside it")


def first_folder_with(root: Path, names: Sequence[str], depth: int = 3) -> Path:
    """Find the shallowest folder at or below ``root`` that holds one of ``names`` (glob patterns).

    Users name a folder above the corpus as often as the corpus itself. UserError says where it looked.
    """
    level = [root]
    for _ in range(depth + 1):
        for folder in level:
            if any(next(folder.glob(name), None) for name in names):
                return folder
        level = sorted(child for folder in level for child in folder.iterdir() if child.is_dir())
    zips = next(root.glob("**/*.zip"), None) or next(root.glob("**/*.tar*"), None)
    packed = f"; {zips.name} is still packed: unpack it first" if zips else ""
    raise UserError(f"no {' or '.join(names)} in {root} or {depth} levels below{packed}")


def decode(data: bytes) -> str:
    """Decode a label file: UTF-8 with or without a byte order mark, else CP949. ValueError for neither."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp949")


def read_json(path: Path) -> Any:
    """Parse a JSON label; ValueError says why not (missing, encoding or syntax)."""
    try:
        return json.loads(decode(path.read_bytes()))
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a text file without its blank lines; UserError for a wrong encoding."""
    encoding = _encoding(path)
    with path.open(encoding=encoding, newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            line = line.rstrip("\r\n")
            if line.strip():
                yield number, line


def _encoding(path: Path) -> str:
    for encoding in ("utf-8-sig", "cp949"):
        try:
            with path.open(encoding=encoding) as stream:
                for _ in stream:
                    pass
            return encoding
        except UnicodeDecodeError:
            continue
    raise UserError(f"{path} is neither UTF-8 nor CP949: convert it to UTF-8")


def read_table(
    path: Path, columns: Sequence[str] | None = None, delimiter: str = "\t"
) -> Iterator[tuple[int, dict]]:
    """Yield (line number, row) of a table without quoting; its first line names ``columns`` if None.

    Common Voice, FLEURS and most hand-made tables hold bare quotation marks, which a CSV reader would take
    for quoting and swallow lines with.
    """
    for number, line in read_lines(path):
        cells = line.split(delimiter)
        if columns is None:
            columns = [cell.strip() for cell in cells]
            continue
        yield number, dict(zip(columns, cells, strict=False))


def text_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, str | int | float]:
    """Return the manifest fields of the pairs that hold something."""
    return {key: value for key, value in pairs if value not in (None, "", [])}
