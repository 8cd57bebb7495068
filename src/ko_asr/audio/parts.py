"""What of a file libsndfile is to read, and what its header promises: libsndfile takes both on trust."""

import io
from typing import Any, BinaryIO, NamedTuple, cast

from ko_asr.audio import headers, mpeg, ogg

_MOST_STREAMS = 1000  # of an Ogg: libsndfile takes a millisecond for each


class Parts(NamedTuple):
    """``files`` to decode one after another, None for the file as it is.

    ``frames`` is the number of samples a channel where it was counted, ``ratio`` what is promised to what is
    there (1.0 where nothing is known to be missing), and ``problem`` why the file is not whole: a reason, and
    the end of a sentence about the file.
    """

    files: list[BinaryIO] | None = None
    frames: int | None = None
    ratio: float = 1.0
    problem: tuple[str, str] | None = None


class Spliced(io.RawIOBase):
    """A part of a file, from ``begin`` to ``end``, with other bytes before it."""

    def __init__(self, file: BinaryIO, begin: int, end: int, before: bytes = b"") -> None:
        self._file, self._begin, self._before, self._at = file, begin, before, 0
        self._size = len(before) + end - begin

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size - self._at))
        data = self._before[self._at : self._at + wanted]
        if len(data) < wanted:
            self._file.seek(self._begin + self._at + len(data) - len(self._before))
            data += self._file.read(wanted - len(data))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def find_parts(file: BinaryIO) -> Parts:
    """Look at the headers of an audio file, of any kind; its content decides, not its name."""
    file.seek(0)
    head = file.read(4)
    if head == b"OggS":
        return _of_ogg(file)
    if head[:3] == b"ID3" or mpeg.header_of(head) or len(set(head)) == 1:  # the last is padding
        return _of_mpeg(file) or Parts()
    found = headers.payload(file)
    return Parts() if found is None else _of_payload(file, found)


def _of_mpeg(file: BinaryIO) -> Parts | None:
    """The parts of an MP3, also behind zeros or padding; None where the file is none."""
    found = mpeg.frames(file)
    if found is None:
        return None
    if found.changed:
        return Parts(problem=("MP3 whose rate or channels change", "changes its rate or channels midway"))
    if found.promised is not None and found.whole < found.promised - 1:
        return _cut(f"{found.whole} of {found.promised} frames are there")
    if found.promised is None and found.cut:
        return _cut("its last frame is not whole")
    size = file.seek(0, io.SEEK_END)
    if found.promised is not None and found.whole <= found.promised + 1:
        return Parts([_part(file, found.start, size)]) if found.padded else Parts()
    part = _part(file, found.begin, size, mpeg.counting_frame(found))
    return Parts([part], found.whole * found.samples)


def _cut(how: str) -> Parts:
    """The answer for a file of which the end is known to be missing."""
    return Parts(problem=(f"cut off ({how})", f"is cut off or damaged ({how}): copy it again"))


def _part(file: BinaryIO, begin: int, end: int, before: bytes = b"") -> BinaryIO:
    return cast(BinaryIO, Spliced(file, begin, end, before))


def _of_ogg(file: BinaryIO) -> Parts:
    found = ogg.links(file, _MOST_STREAMS)
    if len(found.places) > _MOST_STREAMS:
        many = f"more than {_MOST_STREAMS} streams in a row"
        return Parts(problem=(f"Ogg of {many}", f"has {many}: join them to one, or split it"))
    if not found.whole:
        return _cut("its last Ogg page is missing")
    if len(found.places) == 1:
        return Parts()
    return Parts([_part(file, *place) for place in found.places])


def _of_payload(file: BinaryIO, found: headers.Payload) -> Parts:
    if found.more:
        said = f"is followed by {found.more}: export it again"
        return Parts(problem=(f"followed by {found.more.lstrip('0123456789 ')}", said))
    if found.unset:
        file.seek(0)
        before = bytearray(file.read(found.at))
        before[-4:] = min(found.there, 0xFFFFFFFE).to_bytes(4, "little")
        return Parts([_part(file, found.at, found.at + found.there, bytes(before))])
    return Parts(ratio=max(1.0, (found.promised or 0) / found.there) if found.there else 1.0)
