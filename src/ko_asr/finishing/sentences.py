"""Where sentences end, and which of them ask.

Ends are looked for in what was said, before numbers are rewritten, and kept as places in the spoken text; the
marks come when everything else is written. An ending of polite speech is enough; one of casual speech, which
may be a connective as well, needs silence behind it or Kiwi's tag.
"""

import functools
from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple

from ko_asr.finishing import kiwi
from ko_asr.finishing.draft import Draft
from ko_asr.finishing.silence import silence_behind
from ko_asr.finishing.word_lists import whole_word, word_lists
from ko_asr.finishing.words import WrittenWord

_MARKS = ".?!…"
_CANNOT_END = ("J", "ETM", "MM")  # tags of a last word behind which speech breaks off


class End(NamedTuple):
    """A sentence ends in front of the spoken character ``at``; its mark is empty where speech breaks off."""

    at: int
    mark: str


class _Kind(Enum):
    """What the ending of a word says of a sentence."""

    MARKED, SURE, OPEN, PLAIN, CASUAL = range(5)


class Sentences:
    """A stage that finds the ends of sentences, with or without Kiwi; it changes no text."""

    def __init__(self, with_kiwi: bool) -> None:
        self._with_kiwi = with_kiwi
        lists = word_lists()["sentences"]
        self._is = {name: whole_word(entry) for name, entry in lists.items() if isinstance(entry, str)}
        self._pause, self._casual_pause = lists["pause_ms"], lists["casual_pause_ms"]
        self._kind = functools.lru_cache(1 << 14)(self._kind_of)

    def __call__(self, draft: Draft) -> None:
        """Put the ends of sentences into ``draft.ends``."""
        words = draft.output_words()
        if not words:
            return
        tags = self._tags(draft)
        begin, last = 0, len(words) - 1
        for number, (word, _, end, _) in enumerate(words):
            kind = self._kind(word)
            if number == last or (kind and self._ends(kind, draft, number, tags.get(end))):
                sentence = [one[0] for one in words[begin : number + 1]]
                draft.ends.append(End(end, self._mark(sentence, tags.get(end), number == last)))
                begin = number + 1

    def _tags(self, draft: Draft) -> dict[int, str]:
        """The tag of the last morpheme in front of each place in the spoken text."""
        if not self._with_kiwi:
            return {}
        return {token.origin.end: token.tag for token in kiwi.tokens(draft)}

    def _kind_of(self, word: str) -> _Kind | None:
        matches = self._is
        if word[-1] in _MARKS:
            return _Kind.MARKED
        if matches["open"](word):
            return _Kind.OPEN
        if matches["sure"](word) and not matches["not_sure"](word):
            return _Kind.SURE
        if matches["plain"](word):
            return _Kind.PLAIN
        return _Kind.CASUAL if matches["casual"](word) and not matches["not_casual"](word) else None

    def _ends(self, kind: _Kind, draft: Draft, number: int, tag: str | None) -> bool:
        """True where a sentence ends behind a word that is not the last."""
        matches, words = self._is, draft.output_words()
        ahead = words[number + 1][0].rstrip(_MARKS)
        if kind is _Kind.MARKED:
            return True
        if matches["goes_on"](ahead):
            return False
        if kind is _Kind.SURE:
            return tag is None or not tag.startswith("N")
        silence = silence_behind(draft, number)
        if kind is _Kind.OPEN:
            return silence is not None and silence >= self._pause
        if kind is _Kind.PLAIN and ahead and not matches["plain_goes_on"](ahead):
            return True
        if matches["casual_goes_on"](ahead):
            return False
        if silence is not None and silence >= self._casual_pause:
            return tag is None or tag in ("EF", "EC", "IC", "MAG", "JX")
        return tag == "EF" and bool(matches["casual_sure"](words[number][0]))

    def _mark(self, words: Sequence[str], tag: str | None, last: bool) -> str:
        word = words[-1]
        if word[-1] in _MARKS:
            return ""
        if self._asks(words):
            return "?"
        if not last or self._is["sure"](word):
            return "."
        broken_off = self._is["unfinished"](word) or (tag is not None and tag.startswith(_CANNOT_END))
        return "" if broken_off else "."

    def _asks(self, words: Sequence[str]) -> bool:
        matches, last = self._is, words[-1]
        if (matches["asks"](last) and not matches["not_asks"](last)) or matches["asks_together"](
            " ".join(words[-2:])
        ):
            return True
        if not matches["may_ask"](last):
            return False
        ahead = ""
        for word in reversed(words):
            if matches["clause"](word):
                return False
            indefinite = matches["indefinite"](word) and ahead[-1:] in ("은", "는", "도")
            if matches["words"](word) and not matches["not_words"](word) and not indefinite:
                return True
            ahead = word
        return False


def last_words(draft: Draft) -> list[int]:
    """The number of the word in ``draft.text`` that ends each sentence."""
    if not draft.ends:
        return []
    places = [end for _, _, end, _ in draft.output_words()]
    found, number = [], 0
    for at, _ in draft.ends:
        while number < len(places) - 1 and places[number] < at:
            number += 1
        found.append(number)
    return found


def marked(
    words: Sequence[WrittenWord], lasts: Sequence[int], ends: Sequence[End]
) -> tuple[WrittenWord, ...]:
    """``words`` with the marks of the sentences that end in words ``lasts``."""
    made = list(words)
    for number, end in zip(lasts, ends, strict=True):
        word = made[number]
        if end.mark and word.text[-1] not in _MARKS:
            made[number] = word._replace(text=word.text + end.mark)
    return tuple(made)


def first_words(lasts: Sequence[int]) -> tuple[int, ...]:
    """The numbers of the words that begin a sentence, by those that end one."""
    return (0, *sorted({number + 1 for number in lasts[:-1]})) if lasts else ()
