"""Search and reading of the files of a corpus, shared by several readers."""

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ko_asr.corpora.names import readable
from ko_asr.errors import UserError

LONGEST_TEXT = 100_000  # characters: an hour of fast speech has 26,000
# What programs write for a value that is missing (str(None), pandas, Excel, SQL); a cell that holds just that
# is no text. A whole utterance of it, in Latin letters, does not occur in a Korean corpus.
_MISSING = frozenset(("None", "none", "null", "NULL", "Null", "nan", "NaN", "NAN", "<NA>", "#N/A", "N/A"))


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
        level = sorted(child for folder in level for child in _children(folder) if child.is_dir())
    zips = next(root.glob("**/*.zip"), None) or next(root.glob("**/*.tar*"), None)
    packed = f"; {zips.name} is still packed: unpack it first" if zips else ""
    raise UserError(f"no {' or '.join(names)} in {root} or {depth} levels below{packed}")


def _children(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # lost+found and the like
        return []


class Listed(NamedTuple):
    """A folder of a corpus: the names of its files, sorted, or the problem why it is not read."""

    folder: Path
    files: list[str]
    problem: str = ""


def walk(root: Path) -> Iterator[Listed]:
    """Yield every folder at and below ``root``, in a stable order, and follow links to folders outside.

    A folder that cannot be listed is yielded with its problem, and so is a link to a folder that is read
    elsewhere: inside ``root``, above it, or by an earlier link. So a circle of links ends.
    """
    yield from _walk(root, os.path.realpath(root), {os.path.realpath(root): str(root)})


def _walk(top: Path, root: str, seen: dict[str, str]) -> Iterator[Listed]:
    errors: list[OSError] = []
    for folder, subfolders, files in os.walk(top, onerror=errors.append):
        yield from _unlisted(errors)
        subfolders.sort()
        yield Listed(Path(folder), sorted(files))
        for path in (os.path.join(folder, name) for name in subfolders):
            if not os.path.islink(path):
                continue
            target = os.path.realpath(path)
            if inside(target, root) or inside(root, target) or target in seen:
                problem = f"a link to a folder that is read elsewhere ({seen.get(target, target)})"
                yield Listed(Path(path), [], problem)
            else:
                seen[target] = path
                yield from _walk(Path(path), root, seen)
    yield from _unlisted(errors)


def _unlisted(errors: list[OSError]) -> Iterator[Listed]:
    while errors:
        error = errors.pop()
        yield Listed(Path(str(error.filename)), [], f"unreadable folder ({error.strerror})")


def inside(path: str, folder: str) -> bool:
    """Tell whether ``path`` is ``folder`` or lies below it; both are absolute, without links."""
    return os.path.commonpath([path, folder]) == folder


def place(path: Path, root: Path) -> str:
    """Return ``path`` as seen from ``root``, readable, for ``where`` and for ids."""
    return readable(str(path.relative_to(root)))


def text_of(value: Any, what: str = "text") -> tuple[str, str]:
    """Return (text, problem) of a value that should be a text: a missing one never becomes a word.

    >>> text_of("그래"), text_of(None), text_of(12)
    (('그래', ''), ('', 'no text'), ('', 'text is a number (12)'))
    """
    if value is None:
        return "", f"no {what}"
    if not isinstance(value, str):
        kind = {bool: "a truth value", int: "a number", float: "a number", list: "a list"}
        return "", f"{what} is {kind.get(type(value), 'an object')} ({str(value)[:80]})"
    if value.strip() in _MISSING:
        return "", f"no {what} ({value.strip()})"
    if len(value) > LONGEST_TEXT:
        return "", f"{what} of more than {LONGEST_TEXT} characters ({len(value)})"
    return value, ""


def segment_of(start: Any, end: Any) -> tuple[float, float | None, str]:
    """Return (start, end, problem) of a segment in seconds; end is None for the end of the file.

    Both may be numbers or their spellings, missing ones None or "". Only finite, ascending times that are
    not negative have no problem.

    >>> segment_of("1.5", 4), segment_of("", ""), segment_of(3, 3)[2], segment_of("nan", 1)[2]
    ((1.5, 4.0, ''), (0.0, None, ''), 'segment of no length', 'start is no time (nan)')
    """
    times: list[float | None] = []
    for name, value in (("start", start), ("end", end)):
        seconds = None if value in (None, "") else number_of(value)
        if seconds is None and value not in (None, ""):
            return 0.0, None, f"{name} is no time ({str(value)[:80]})"
        if seconds is not None and seconds < 0:
            return 0.0, None, f"{name} is negative ({seconds:g})"
        times.append(seconds)
    begin = times[0] or 0.0
    if times[1] is not None and times[1] <= begin:
        return 0.0, None, "segment of no length"
    return begin, times[1], ""


def number_of(value: Any) -> float | None:
    """Return a finite number or its spelling as float, None for everything else."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def decode(data: bytes) -> str:
    """Decode a label file: UTF-8 with or without a byte order mark, else CP949. ValueError for neither."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp949")


def read_file(path: Path) -> bytes:
    """Read a small file; OSError also for what is no file: a pipe or a device among them would never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "not a regular file", str(path))
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """Parse a JSON label; ValueError says why not (missing, no regular file, encoding, syntax or nesting)."""
    try:
        return json.loads(decode(read_file(path)))
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of a text file without its blank lines; UserError for a wrong encoding.

    Raises OSError for what cannot be read.
    """
    encoding = _encoding(path)
    with path.open(encoding=encoding, newline="\n") as stream:
        for number, line in enumerate(stream, 1):
            line = line.rstrip("\r\n")
            if line.strip():
                yield number, line


def _encoding(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is no regular file: give a text file")
    for encoding in ("utf-8-sig", "cp949"):
        try:
            with path.open(encoding=encoding) as stream:
                for _ in stream:
                    pass
            return encoding
        except UnicodeDecodeError:
            continue
    raise UserError(f"{path} is neither UTF-8 nor CP949: convert it to UTF-8")


def text_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, str | int | float]:
    """Return the manifest fields of the pairs that hold a text or a finite number."""
    return {key: value for key, value in pairs if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value) and value not in _MISSING
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
