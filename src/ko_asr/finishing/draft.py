"""Text on its way from the spoken to the written form; each of its characters knows where it came from.

A stage looks at ``draft.text`` and replaces parts of it by `Draft.replace`. What is left alone keeps its
origin, character by character; a new part has that of all that it replaces. So a stage replaces as little as
it can: ``이천이십사년삼월`` becomes ``2024년 3월`` by three edits (two numbers and a space), not by one, and
each of the two words has its own times.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ko_asr.finishing.kiwi import Token
    from ko_asr.finishing.sentences import End
    from ko_asr.finishing.words import SpokenWord


class Edit(NamedTuple):
    """``text[start:end]`` becomes ``new``; nothing of it stays when ``new`` is empty."""

    start: int
    end: int
    new: str


class Span(NamedTuple):
    """Characters ``start`` to ``end``, exclusive."""

    start: int
    end: int


class Draft:
    """A text and the origin of its characters in ``spoken``, the words joined by single spaces."""

    def __init__(self, words: Sequence[str], timed: "Sequence[SpokenWord] | None" = None) -> None:
        """``words`` hold no spaces; ``timed`` are the same words with their times, where these are known."""
        self.words, self.timed = words, timed
        self.text = self.spoken = " ".join(words)
        self._word_starts: list[int] | None = None
        self._starts: list[int] | None = None  # of each character's origin in `spoken`; None: the same
        self._ends: list[int] = []
        self._output: Sequence[tuple[str, int, int, tuple[int, ...]]] | None = None  # until the next edit
        self._protected: list[Span] = []
        self.tokens: list[Token] | None = None
        self.ends: list[End] = []

    @property
    def word_starts(self) -> Sequence[int]:
        """Where each spoken word begins in `spoken`."""
        if self._word_starts is None:
            lengths = (len(word) + 1 for word in self.words[:-1])
            self._word_starts = list(accumulate(lengths, initial=0)) if self.words else []
        return self._word_starts

    def replace(self, edits: Iterable[Edit]) -> None:
        """Apply edits, which are in order and do not overlap, but for those of what is protected."""
        edits = list(edits)
        if self._protected:
            edits = [edit for edit in edits if not self.is_protected(edit)]
        if not edits:
            return
        self._output = None
        if self._starts is None:
            self._starts = list(range(len(self.text)))
            self._ends = list(range(1, len(self.text) + 1))
        parts: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        at = 0
        for start, end, new in edits:
            first, last = self._origin(start, end)
            parts += self.text[at:start], new
            starts += self._starts[at:start]
            ends += self._ends[at:start]
            starts += [first] * len(new)
            ends += [last] * len(new)
            at = end
        self.text = "".join([*parts, self.text[at:]])
        self._starts, self._ends = starts + self._starts[at:], ends + self._ends[at:]

    def origin(self, start: int, end: int) -> Span:
        """The spoken characters that ``text[start:end]`` came from; nothing came from none."""
        return Span(*self._origin(start, end))

    def _origin(self, start: int, end: int) -> tuple[int, int]:
        if self._starts is None:
            return start, end
        if start == end:
            at = self._starts[start] if start < len(self._starts) else len(self.spoken)
            return at, at
        return self._starts[start], self._ends[end - 1]

    def protect(self, spans: Iterable[Span]) -> None:
        """Let no later edit change what came from these spoken characters."""
        self._protected = sorted([*self._protected, *spans])

    def is_protected(self, edit: Edit) -> bool:
        """True for an edit that would change what is protected."""
        start, end = self._origin(edit.start, edit.end)
        before = bisect_left(self._protected, (end,)) - 1  # the last one that begins before the edit ends
        return before >= 0 and start < self._protected[before].end

    def output_words(self) -> Sequence[tuple[str, int, int, tuple[int, ...]]]:
        """The words of the text, each with the span of characters and the spoken words that it came from."""
        if self._output is None:
            self._output = list(self._divided())
        return self._output

    def _divided(self) -> Iterator[tuple[str, int, int, tuple[int, ...]]]:
        at, spoken, words = 0, self.spoken, self.word_starts
        if self._starts is None:
            for number, (word, start) in enumerate(zip(self.words, words, strict=True)):
                yield word, start, start + len(word), (number,)
            return
        for word in self.text.split(" "):
            if word:
                start, end = self._origin(at, at + len(word))
                while start < end and spoken[start] == " ":
                    start += 1
                while start < end and spoken[end - 1] == " ":
                    end -= 1
                first = bisect_right(words, start) - 1
                last = bisect_right(words, end - 1)
                yield word, start, end, tuple(range(first, last)) if last > first else (first,)
            at += len(word) + 1
