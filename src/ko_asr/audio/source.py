"""Place of an utterance's audio: a file, a member of an archive, or a segment of either."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AudioSource:
    """Place of an utterance's audio: a file, a member of an archive, or a segment of either.

    ``path`` is a file; when it is empty or missing, ``member`` of the zip ``archive`` is read instead,
    found by its last two path components (archives differ in what stands before). ``headerless`` is PCM,
    16 kHz mono signed 16-bit little-endian; everything else is what libsndfile reads (WAV, FLAC, OGG, MP3),
    of any rate and channel count. ``start`` and ``end`` cut a segment, in seconds.
    """

    path: str = ""
    archive: str = ""
    member: str = ""
    headerless: bool = False
    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        return self.path or f"{self.archive}!{self.member}"
