"""The pages of an Ogg file (RFC 3533): streams that follow one another, and whether the last page is there.

libsndfile reads the first of several streams in a row (a radio programme, files put together) and says
nothing.
"""

import io
from typing import BinaryIO, NamedTuple

_FIRST, _LAST = 2, 4  # flags of a page: begins a logical stream, ends one


class Links(NamedTuple):
    """Logical streams in a row as (begin, end) in bytes; ``whole`` says that the last one has its end."""

    places: list[tuple[int, int]]
    whole: bool


def links(file: BinaryIO, most: int) -> Links:
    """Walk the pages of a file that begins with one, until there are more streams than ``most``."""
    size = file.seek(0, io.SEEK_END)
    at, flags, inside = 0, 0, False
    begins: list[int] = []
    while (page := _page(file, at, size)) is not None:
        begin, at, flags = page
        if flags & _FIRST and (inside or not begins):
            begins.append(begin)
        inside = not flags & _FIRST
        if at > size or len(begins) > most:
            break
    begins = begins or [
        0
    ]  # the first page does not say that it is one: libsndfile tells whether it reads that
    places = list(zip(begins, [*begins[1:], size], strict=True))
    return Links(places, at <= size and bool(flags & _LAST))


def _page(file: BinaryIO, at: int, size: int) -> tuple[int, int, int] | None:
    """Return begin, end and flags of the next page at ``at`` or, where that is none, behind it."""
    file.seek(at)
    head = file.read(27)
    while head[:4] != b"OggS":
        file.seek(at)
        data = file.read(1 << 16)
        offset = data.find(b"OggS", 1)
        if offset < 0 and len(data) < 1 << 16:
            return None
        at += offset if offset >= 0 else len(data) - 3
        file.seek(at)
        head = file.read(27)
    if len(head) < 27:
        return at, size + 1, 0
    lengths = file.read(head[26])
    return at, at + 27 + head[26] + sum(lengths), head[5]
