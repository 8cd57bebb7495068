"""The frames of an MP3, counted by walking from header to header: 0.1 s for an hour of audio.

libsndfile takes the length from the Xing frame, and guesses it from the first bit rate where there is none:
of a file with variable bit rates it then reads half, or of two files put together the first. Layouts: ISO/IEC
11172-3 and 13818-3; the Xing, Info and VBRI frames as LAME and Fraunhofer write them.
"""

import io
from typing import BinaryIO, NamedTuple

_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}  # by version
_KBPS = {  # by (MPEG 1, layer); index 0 is the free format, which this does not read
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_SURE = 3  # headers in a row that no other data has by chance
_SEARCHED = 1 << 20  # bytes


class Header(NamedTuple):
    """One frame: ``size`` in bytes, ``samples`` a channel; ``kind`` is version, layer, rate, mono or not."""

    size: int
    samples: int
    kind: tuple[int, int, int, bool]


class Frames(NamedTuple):
    """The frames of a file: the first is at ``start``, behind padding if ``padded``.

    The first that holds audio is at ``begin``, and ``whole`` is the number of those that are not cut.

    ``promised`` is their number by the Xing, Info or VBRI frame, None without one. ``cut`` says that the last
    frame is not whole, ``changed`` that rate or channels change midway. ``header`` is the first one's.
    """

    start: int
    padded: bool
    begin: int
    whole: int
    promised: int | None
    cut: bool
    changed: bool
    header: bytes
    samples: int  # of a frame


def header_of(four: bytes) -> Header | None:
    """Read the four bytes of a frame's header; None where they are none."""
    if len(four) < 4 or four[0] != 0xFF or four[1] & 0xE0 != 0xE0:
        return None
    version, layer = four[1] >> 3 & 3, 4 - (four[1] >> 1 & 3)
    rate_index, bit_index = four[2] >> 2 & 3, four[2] >> 4
    if version == 1 or layer == 4 or rate_index == 3 or bit_index in (0, 15):
        return None
    rate, first = _RATES[version][rate_index], version == 3
    bits, padding = 1000 * _KBPS[first, layer][bit_index - 1], four[2] >> 1 & 1
    samples = 384 if layer == 1 else 576 if layer == 3 and not first else 1152
    size = (12 * bits // rate + padding) * 4 if layer == 1 else samples // 8 * bits // rate + padding
    return Header(size, samples, (version, layer, rate, four[3] >> 6 == 3))


def frames(file: BinaryIO) -> Frames | None:
    """Walk the frames of an MP3; None where there are not three in a row within the first megabyte."""
    size = file.seek(0, io.SEEK_END)
    tags = _after_tags(file)
    start = begin = _first(file, tags, size)
    if start is None or begin is None:
        return None
    file.seek(begin)
    data = file.read(4)
    first = header_of(data)
    assert first is not None
    file.seek(begin)
    promised = _promised(file.read(first.size), first)
    if promised is not None:
        begin += first.size  # that frame holds no audio
    count, cut, changed = _walk(file, begin, size, first)
    return Frames(start, start > tags, begin, count, promised, cut, changed, data, first.samples)


def _after_tags(file: BinaryIO) -> int:
    at = 0
    while True:
        file.seek(at)
        tag = file.read(10)
        if tag[:3] != b"ID3" or len(tag) < 10:
            return at
        length = sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
        at += 10 + length + (10 if tag[5] & 16 else 0)


def _first(file: BinaryIO, at: int, size: int) -> int | None:
    """Return the place of the first of three frames in a row, within a megabyte from ``at``."""
    file.seek(at)
    data = file.read(_SEARCHED)
    offset = data.find(b"\xff")
    while offset >= 0:
        if header_of(data[offset : offset + 4]) and _is_row(file, at + offset, size):
            return at + offset
        offset = data.find(b"\xff", offset + 1)
    return None


def _is_row(file: BinaryIO, at: int, size: int) -> bool:
    """Tell whether three frames of one kind begin at ``at``, or fewer that reach the end exactly."""
    kind = None
    for _ in range(_SURE):
        if kind and at == size:
            return True
        file.seek(at)
        header = header_of(file.read(4))
        if header is None or kind not in (None, header.kind):
            return False
        kind = header.kind
        at += header.size
    return True


def _promised(frame: bytes, header: Header) -> int | None:
    """Return the number of frames that a Xing, Info or VBRI frame tells; None for a frame of audio."""
    if frame[36:40] == b"VBRI":
        return int.from_bytes(frame[50:54], "big")
    version, layer, _, mono = header.kind
    if layer != 3:
        return None
    at = 4 + ((17 if mono else 32) if version == 3 else (9 if mono else 17))
    if frame[at : at + 4] not in (b"Xing", b"Info"):
        return None
    known = frame[at + 7] & 1
    return int.from_bytes(frame[at + 8 : at + 12], "big") if known else None


def _walk(file: BinaryIO, at: int, size: int, first: Header) -> tuple[int, bool, bool]:
    """Count frames from ``at``; tell whether the last is cut, and whether another kind of frame came."""
    known: dict[bytes, Header | None] = {}
    count = 0
    file.seek(at)
    while len(data := file.read(4)) == 4:
        key = data[:3] + bytes([data[3] & 0xC0])
        if key not in known:
            known[key] = header_of(data)
        header = known[key]
        if header is not None and header.kind != first.kind:
            if _is_row(file, at, size):
                return count, False, True
            header = None
        if header is None:  # a tag at the end, or damage
            found = None if data[:3] == b"TAG" else _first(file, at, size)
            if found is None:
                return count, False, False
            at = found
            file.seek(at)
            continue
        at += header.size
        if at > size:
            return count, True, False
        count += 1
        file.seek(header.size - 4, io.SEEK_CUR)
    return count, data[:1] == b"\xff", False


def counting_frame(found: Frames) -> bytes:
    """Make an Info frame that tells a decoder how many frames follow."""
    widest = max(range(1, 15), key=lambda index: _size(found.header, index))
    four = bytes([0xFF, found.header[1] | 1, widest << 4 | found.header[2] & 0x0C, found.header[3]])
    header = header_of(four)
    assert header is not None
    version, _, _, mono = header.kind
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    tag = b"Info" + (1).to_bytes(4, "big") + found.whole.to_bytes(4, "big")
    return (four + bytes(side) + tag).ljust(header.size, b"\0")


def _size(header: bytes, index: int) -> int:
    found = header_of(bytes([0xFF, header[1], index << 4 | header[2] & 0x0C, header[3]]))
    return found.size if found else 0
