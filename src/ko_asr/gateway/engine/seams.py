"""The words of pieces in one line, each once, also where a cut went through sound.

Both neighbours of such a cut have heard a second of the other's audio. A word belongs to the piece that has
its middle; where the two place it a little differently, it could be in both or in neither.
"""

from collections.abc import Sequence
from dataclasses import replace

from ko_asr.gateway.engine.pieces import FRAME_MS
from ko_asr.recognition.window import Window
from ko_asr.runtime.results import Word


class Seams:
    """Pieces in order, with their words, to words since the start of the audio."""

    def __init__(self) -> None:
        self._last: Word | None = None  # the last one given
        self._beyond: Word | None = None  # the first one that was left to the next piece

    def add(self, window: Window, heard: Sequence[Word]) -> list[Word]:
        """The words of ``window``, whose times in ``heard`` count from its first sample."""
        offset = window.start * FRAME_MS
        words = [
            replace(word, start_ms=word.start_ms + offset, end_ms=word.end_ms + offset) for word in heard
        ]
        if window.start < window.begin:
            words = self._behind_seam(words, window.begin * FRAME_MS)
        self._beyond = None
        if not window.pause:
            seam = window.end * FRAME_MS
            beyond = [word for word in words if _middle(word) >= seam]
            self._beyond = beyond[0] if beyond else None
            words = [word for word in words if _middle(word) < seam]
        self._last = words[-1] if words else None
        return words

    def _behind_seam(self, words: list[Word], seam: int) -> list[Word]:
        before = [word for word in words if _middle(word) < seam]
        own = words[len(before) :]
        if own and self._last and _same(self._last, own[0]):
            return own[1:]
        if before and self._beyond and _same(self._beyond, before[-1]):
            return [before[-1], *own]
        return own


def _middle(word: Word) -> float:
    return (word.start_ms + word.end_ms) / 2


def _same(one: Word, other: Word) -> bool:
    """True when two words lie at the same place: more than half of the shorter one is in both."""
    common = min(one.end_ms, other.end_ms) - max(one.start_ms, other.start_ms)
    return common > 0.5 * min(one.end_ms - one.start_ms, other.end_ms - other.start_ms)
