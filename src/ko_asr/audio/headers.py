"""What the header of uncompressed audio promises, against what the file holds: WAV, RF64, W64, AIFF, AU.

libsndfile reads what there is of a file that was cut off, and says nothing. Layouts: Microsoft's
"Multimedia Programming Interface" (RIFF), EBU Tech 3306 (RF64), Sony's Wave64, Apple's AIFF 1.3.
"""

import io
from typing import BinaryIO, Literal, NamedTuple

Order = Literal["little", "big"]

STREAMED = 0x7FFF0000  # sizes from here on are what programs write that do not know the length yet
_TRAILING = 1 << 16  # bytes behind the samples that are no chunk and may be anything
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


class Payload(NamedTuple):
    """The bytes of samples: ``promised`` by the header (None: left open) and ``there`` in the file.

    They begin at ``at``. ``unset`` says that the header has a size of 0 and samples
    follow, ``more`` what follows the samples and is counted nowhere.
    """

    promised: int | None
    there: int
    at: int
    unset: bool = False
    more: str = ""


def payload(file: BinaryIO) -> Payload | None:
    """Return the samples' place and size; None where the header is of another kind or has no samples."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(40)
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
        return _wave(file, size, "big" if head[:4] == b"RIFX" else "little")
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _promised(file, 12, size, "big", b"SSND")
    if head[:4] == b"riff" and head[24:28] == b"wave":
        return _wave64(file, size)
    if head[:4] in (b"dns.", b".snd"):
        order: Order = "little" if head[:4] == b"dns." else "big"
        begin, promised = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
        return Payload(None if promised >= STREAMED else promised, size - begin, begin)
    return None


def _wave(file: BinaryIO, size: int, order: Order) -> Payload | None:
    file.seek(12)
    wide = None
    if file.read(4) == b"ds64":  # the real size, in 64 bits
        wide = int.from_bytes(file.read(20)[12:20], "little")
    found = _promised(file, 12, size, order, b"data")
    if found is None or wide is None or found.promised is not None:
        return found
    return found._replace(promised=wide or None)


def _promised(file: BinaryIO, at: int, size: int, order: Order, wanted: bytes) -> Payload | None:
    """Walk the chunks from ``at`` to the one that is ``wanted``."""
    while at + 8 <= size:
        file.seek(at)
        name, length = file.read(4), int.from_bytes(file.read(4), order)
        at += 8
        if name == wanted:
            return _judged(file, at, size, length, order)
        at += length + length % 2
    return None


def _judged(file: BinaryIO, at: int, size: int, length: int, order: Order) -> Payload:
    there = size - at
    if length >= STREAMED > there:
        return Payload(None, there, at)
    if length == 0 and there:  # a recorder that was killed before it wrote the size, or no samples at all
        file.seek(at)
        unset = not _is_chunk(file.read(8), there, order)
        return Payload(None if unset else 0, there, at, unset)
    after = at + length + length % 2
    if after >= size:
        return Payload(length, there, at)
    file.seek(after)
    head, more = file.read(8), ""
    if head[:4] in (b"RIFF", b"FORM"):
        more = "another recording"
    elif size - after > _TRAILING and any(head) and not _is_chunk(head, size - after, order):
        more = f"{size - after} bytes that its header does not count"
    return Payload(length, there, at, more=more)


def _is_chunk(head: bytes, room: int, order: Order) -> bool:
    """Tell whether ``head`` begins another chunk, of a printable name and a size for which there is room."""
    name, length = head[:4], int.from_bytes(head[4:8], order)
    return len(head) == 8 and all(32 <= byte < 127 for byte in name) and length + 8 <= room


def _wave64(file: BinaryIO, size: int) -> Payload | None:
    at = 40
    while at + 24 <= size:
        file.seek(at)
        name, length = file.read(16), int.from_bytes(file.read(8), "little")
        if name == _W64_DATA:
            return Payload(length - 24 if length >= 24 else None, size - at - 24, at + 24)
        if length < 24:
            return None
        at += -(-length // 8) * 8
    return None
