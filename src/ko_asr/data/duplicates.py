"""Text that occurs in two splits, exactly or nearly: leakage that makes a score too good.

Near means at most one edit in ten characters, spaces and punctuation not counted, for texts of at least
`SHORTEST` characters (short answers such as 네 맞아요 are everybody's).

Found without comparing every pair: two texts within k edits share, unchanged and shifted by at most k, one
of any k + 1 pieces that one of them is cut into. So the small side is cut and indexed by its pieces, and
the large side streams past. A piece that more than `MOST_SHARING` indexed texts hold (set phrases of a
command corpus) is not followed, which bounds the time; a pair that shares only such pieces is missed.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein

SHORTEST = 12
EDITS_A_CHARACTER = 0.1
MOST_SHARING = 500

_IGNORED = re.compile(r"[\W_]+")


class NearPair(NamedTuple):
    """Pair of near texts: their positions in both collections and the edits between them."""

    indexed: int
    streamed: int
    edits: int


def _edits_allowed(length: int) -> int:
    return max(1, int(length * EDITS_A_CHARACTER))


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Cut ``text`` into as many pieces as edits are allowed, and one: (offset, piece)."""
    count = _edits_allowed(len(text)) + 1
    for index in range(count):
        start, end = index * len(text) // count, (index + 1) * len(text) // count
        yield start, text[start:end]


class NearDuplicates:
    """Index over a small collection of texts, searched with the texts of a large one."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts: list[str] = []
        self._index: dict[str, list[tuple[int, int]]] = {}
        for number, text in enumerate(texts):
            bare = _IGNORED.sub("", text)
            self._texts.append(bare)
            if len(bare) >= SHORTEST:
                for offset, piece in _pieces(bare):
                    self._index.setdefault(piece, []).append((number, offset))
        self._index = {piece: found for piece, found in self._index.items() if len(found) <= MOST_SHARING}
        self._lengths = sorted({len(piece) for piece in self._index})

    def matches(self, position: int, text: str) -> list[NearPair]:
        """Find the indexed texts near ``text`` (edits 0 included), each once."""
        bare = _IGNORED.sub("", text)
        pairs = []
        for number in self._candidates(bare):
            known = self._texts[number]
            allowed = _edits_allowed(len(known))
            if abs(len(known) - len(bare)) <= allowed:
                edits = Levenshtein.distance(known, bare, score_cutoff=allowed)
                if edits <= allowed:
                    pairs.append(NearPair(number, position, edits))
        return pairs

    def discard(self, number: int) -> None:
        """Remove the indexed text ``number``, for callers that want one match each."""
        for offset, piece in _pieces(self._texts[number]):
            if (number, offset) in self._index.get(piece, ()):
                self._index[piece].remove((number, offset))

    def _candidates(self, text: str) -> set[int]:
        found = set()
        for length in self._lengths:
            for start in range(len(text) - length + 1):
                for number, offset in self._index.get(text[start : start + length], ()):
                    if abs(start - offset) <= _edits_allowed(len(self._texts[number])):
                        found.add(number)
        return found
