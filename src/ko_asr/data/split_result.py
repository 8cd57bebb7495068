"""Counts and columns of one prepared split: what the audit is computed from."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# One number an utterance, kept for the audit: (column, array type). 620,000 utterances cost 40 MB.
_COLUMNS = {
    "samples": "l",
    "syllables": "i",
    "jamo": "i",
    "text_digest": "q",
    "audio_digest": "q",
    "offset": "q",  # of the line in the manifest, to find an utterance again
    "peak": "f",
    "clipped": "i",
    "dc": "f",
    "rms_db": "f",
    "silent": "f",
    "correlation": "f",
}


@dataclass
class SplitResult:
    """Counts and columns of one prepared split."""

    split: str
    manifest: Path
    lines: int = 0
    kept: int = 0
    reused: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    columns: dict[str, array] = field(default_factory=lambda: {n: array(t) for n, t in _COLUMNS.items()})

    @property
    def rejected_share(self) -> float:
        return sum(self.rejected.values()) / max(1, self.lines)
