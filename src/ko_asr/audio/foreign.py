"""What a file is that libsndfile does not read, by its first bytes."""

import re

MP4, WEBM, AMR, AAC = "M4A or MP4", "WebM or Matroska", "AMR", "AAC"
_KINDS = (
    (4, b"ftyp", MP4),
    (0, b"\x1a\x45\xdf\xa3", WEBM),
    (0, b"\x30\x26\xb2\x75", "WMA"),
    (0, b"#!AMR", AMR),
    (0, b"\xff\xf1", AAC),
    (0, b"\xff\xf9", AAC),
)
# A recorder that hands over a recording while it goes on (MediaRecorder of browsers) writes the header into
# the first piece only. The later ones begin with a cluster or a block of WebM (of track 1; its first byte may
# be the last one of the piece before), a fragment of MP4, or a page of Ogg that is not a stream's first.
_LATER = re.compile(
    rb"\x1f?\x43\xb6\x75|\xa3?(?:[\x84-\xfe]|[\x40-\x7f].)\x81..[\x00\x80]|.{4}(?:moof|styp|sidx)|OggS\0[^\x02\x06]",
    re.DOTALL,
)
HEAD = 16  # bytes that tell


def kind_of(head: bytes) -> str:
    """The format of a file that begins with ``head``; empty where its first bytes do not tell."""
    return next((name for at, magic, name in _KINDS if head[at:].startswith(magic)), "")


def is_later_piece(head: bytes) -> bool:
    """True where a recording goes on that began in another file."""
    return _LATER.match(head) is not None
