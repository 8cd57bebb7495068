"""MP4 files that were put together: a decoder reads the first recording of them and says nothing."""

from pathlib import Path
from typing import BinaryIO

from ko_asr.audio.problem import AudioProblem

_MOST_BOXES = 1_000_000
_LARGEST = 1 << 62  # bytes; nobody can seek further
_HEADER = b"moov"  # a recording has one


def check_boxes(path: Path) -> None:
    """Raise AudioProblem where an MP4 (ISO/IEC 14496-12) holds a second recording behind the first."""
    with path.open("rb") as file:
        headers = 0
        for _ in range(_MOST_BOXES):
            name, size = _box(file)
            headers += name == _HEADER
            if headers > 1:
                raise AudioProblem("two recordings in one file", "holds two recordings: send each for itself")
            if not 0 <= size < _LARGEST:
                return
            file.seek(size, 1)


def _box(file: BinaryIO) -> tuple[bytes, int]:
    """The name of the box that begins here, and the bytes behind its header; below 0 where no box follows."""
    head = file.read(8)
    size, name, taken = int.from_bytes(head[:4]), head[4:], 8
    if size == 1:  # the size in 64 bits comes behind the name
        size, taken = int.from_bytes(file.read(8)), 16
    return name, size - taken
