"""File names as corpora spell them, and as the disk does.

A name in a table and the file that it means differ in harmless ways: macOS writes Hangul decomposed (NFD) and
everyone else composed (NFC), recorders write .WAV, Windows writes backslashes, and zips of Korean Windows
keep CP949 bytes. `FileFinder` finds the file nevertheless, and only where no more than one can be meant.
"""

import hashlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

AUDIO_EXTENSIONS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".pcm", ".raw")
LONGEST_NAME = 255  # bytes of one component of a path: Linux, macOS and Windows agree about that much
_FOLDERS_KEPT = 64  # listings in memory: labels come folder by folder, and each has a few to look in


def folded(name: str) -> str:
    """Return what is the same for names that differ only in case or Unicode form.

    >>> folded("A\\u0301.WAV") == folded("á.wav")
    True
    """
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def readable(name: str) -> str:
    """Return a name from the disk as text: bytes that are no UTF-8 are read as CP949, else left as they are.

    Python keeps such bytes as lone surrogates, which neither JSON nor a manifest can hold.
    """
    if name.isascii():
        return name
    try:
        return os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        pass
    except UnicodeEncodeError:  # surrogates from elsewhere, a label say
        return name
    try:
        return os.fsencode(name).decode("cp949")
    except UnicodeDecodeError:
        return name


def without_audio_extension(name: str, extensions: Sequence[str] = AUDIO_EXTENSIONS) -> str:
    """Cut off an extension that audio has, and nothing else: ids have dots of their own.

    >>> without_audio_extension("s1.utt1.WAV"), without_audio_extension("s1.utt1")
    ('s1.utt1', 's1.utt1')
    """
    stem, extension = os.path.splitext(name)
    return stem if extension.lower() in extensions else name


def shortened(name: str, room: int) -> str:
    """Return ``name`` in at most ``room`` bytes of UTF-8: what is longer ends in a hash of the whole.

    >>> shortened("a.b", 20), shortened("가" * 90, 24)
    ('a.b', '가가-a3f7831c6962d8a3')
    """
    data = name.encode(errors="surrogateescape")
    if len(data) <= room:
        return name
    mark = f"-{hashlib.sha256(data).hexdigest()[:16]}"
    return data[: room - len(mark)].decode(errors="ignore") + mark


class FileFinder:
    """Search for files under names that may be spelt otherwise on disk; lists each folder once."""

    def __init__(self) -> None:
        self._listing = lru_cache(_FOLDERS_KEPT)(_list_folder)
        self._folder = lru_cache(_FOLDERS_KEPT)(self._find_folder)

    def find(self, path: str | Path, extensions: Sequence[str] = ("",)) -> Path | None:
        """Return the regular file meant by ``path`` plus the first of ``extensions`` that has one, or None.

        In this order: the name itself; the same name in another Unicode form, or with an extension in
        another case; the same name in another case. Several of one kind are none: which is meant is unknown.
        """
        folder, name = os.path.split(path)
        listing = self._listing(folder) or self._listing(self._folder(folder))
        for extension in extensions:
            if found := _meant(f"{name}{extension}", listing):
                return Path(found)
        return None

    def _find_folder(self, folder: str) -> str:
        """Return the folder on disk that ``folder`` means: itself, or one of another Unicode form or case."""
        parent, name = os.path.split(folder)
        if not name or parent == folder or os.path.isdir(folder):
            return folder
        parent = self._folder(parent)
        candidates = [path for path in _subfolders(parent) if folded(os.path.basename(path)) == folded(name)]
        return candidates[0] if len(candidates) == 1 else os.path.join(parent, name)


def _list_folder(folder: str) -> dict[str, list[str]]:
    """Map folded names to the paths of a folder's regular files; nothing for one that cannot be listed."""
    listing: dict[str, list[str]] = {}
    for entry in _entries(folder):
        if _is(entry.is_file):
            listing.setdefault(folded(readable(entry.name)), []).append(entry.path)
    return listing


def _subfolders(folder: str) -> list[str]:
    return [entry.path for entry in _entries(folder) if _is(entry.is_dir)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder or ".") as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (OSError, ValueError):  # ValueError: a name that no file system has, with a zero byte in it
        return []


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads to itself
        return False


def _meant(name: str, listing: dict[str, list[str]]) -> str | None:
    found = listing.get(folded(readable(name)), [])
    for same in (_same, _same_but_for_form, folded):
        alike = [path for path in found if same(readable(os.path.basename(path))) == same(readable(name))]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def _same(name: str) -> str:
    return name


def _same_but_for_form(name: str) -> str:
    stem, extension = os.path.splitext(unicodedata.normalize("NFC", name))
    return stem + extension.lower()


def find_elsewhere(path: str) -> str | None:
    """Find the file that a missing ``path`` means: in another form, or with backslashes for slashes."""
    spellings = [path, *([path.replace("\\", "/")] if "\\" in path else [])]
    return next((str(found) for spelling in spellings if (found := FINDER.find(spelling))), None)


FINDER = FileFinder()  # of this process; a worker looks at the folder of the chunk it has
