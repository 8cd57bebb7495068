"""Where sentences end, and which of them ask.

Ends are looked for in what was said, before numbers are rewritten, and kept as places in the spoken text; the
marks come when everything else is written. An ending of polite speech is enough; one of casual speech, which
may be a connective as well, needs silence behind it or Kiwi's tag.
"""

from collections.abc import Sequence
from typing import NamedTuple

from ko_asr.finishing import kiwi
from ko_asr.finishing.draft import Draft, Edit
from ko_asr.finishing.silence import ENDLESS, Sound, pause, sounds
from ko_asr.finishing.word_lists import whole_word, word_lists

_MARKS = ".?!…"
_CANNOT_END = ("J", "EC", "ETM", "MM")  # tags of a last word behind which speech breaks off


class End(NamedTuple):
    """A sentence ends in front of the spoken character ``at``; its mark is empty where speech breaks off."""

    at: int
    mark: str


class Sentences:
    """A stage that finds the ends of sentences, with or without Kiwi; it changes no text."""

    def __init__(self, with_kiwi: bool) -> None:
        self._with_kiwi = with_kiwi
        lists = word_lists()["sentences"]
        self._is = {name: whole_word(entry) for name, entry in lists.items() if isinstance(entry, str)}
        self._pause, self._casual_pause = lists["pause_ms"], lists["casual_pause_ms"]

    def __call__(self, draft: Draft) -> None:
        """Put the ends of sentences into ``draft.ends``."""
        words = [(word, end) for word, _, end, _ in draft.output_words()]
        if not words:
            return
        tags = self._tags(draft)
        times = sounds(draft)
        begin = 0
        for number, (word, end) in enumerate(words):
            last = number == len(words) - 1
            silence = _silence(times, number, last)
            ahead = "" if last else words[number + 1][0]
            if last or self._ends(word, ahead, silence, tags.get(end)):
                mark = self._mark([word for word, _ in words[begin : number + 1]], tags.get(end), last)
                draft.ends.append(End(end, mark))
                begin = number + 1

    def _tags(self, draft: Draft) -> dict[int, str]:
        """The tag of the last morpheme in front of each place in the spoken text."""
        if not self._with_kiwi:
            return {}
        return {token.origin.end: token.tag for token in kiwi.tokens(draft)}

    def _ends(self, word: str, ahead: str, silence: int | None, tag: str | None) -> bool:
        matches = self._is
        if word[-1] in _MARKS:
            return True
        if matches["goes_on"](ahead):
            return False
        if matches["open"](word):
            return silence is not None and silence >= self._pause
        if matches["sure"](word) and not matches["not_sure"](word):
            return tag is None or not tag.startswith("N")
        if not matches["casual"](word) or matches["not_casual"](word):
            return False
        if silence is not None and silence >= self._casual_pause:
            return tag is None or tag in ("EF", "EC", "IC", "MAG", "JX")
        return tag == "EF" and bool(matches["casual_sure"](word))

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
        if matches["asks"](last) and not matches["not_asks"](last):
            return True
        if not matches["may_ask"](last):
            return False
        ahead = ""
        for word in reversed(words):
            indefinite = matches["indefinite"](word) and ahead[-1:] in ("은", "는", "도")
            if matches["words"](word) and not matches["not_words"](word) and not indefinite:
                return True
            ahead = word
            if matches["clause"](word):
                return False
        return False


def _silence(times: Sequence[Sound] | None, number: int, last: bool) -> int | None:
    if last:
        return ENDLESS
    return None if times is None else pause(times, number, number + 1)


class Marks:
    """A stage that writes the marks that `Sentences` found."""

    def __call__(self, draft: Draft) -> None:
        """Write a mark behind the last word of each sentence of ``draft``."""
        marks = {number: end.mark for number, end in zip(last_words(draft), draft.ends, strict=True)}
        at, edits = 0, []
        for number, (word, _, _, _) in enumerate(draft.output_words()):
            at += len(word) + 1
            if marks.get(number) and word[-1] not in _MARKS:
                edits.append(Edit(at - 2, at - 1, word[-1] + marks[number]))
        draft.replace(edits, everywhere=True)


def last_words(draft: Draft) -> list[int]:
    """The number of the word in ``draft.text`` that ends each sentence."""
    ends = [end for _, _, end, _ in draft.output_words()]
    found, number = [], 0
    for end in draft.ends:
        while number < len(ends) - 1 and ends[number] < end.at:
            number += 1
        found.append(number)
    return found


def first_words(draft: Draft) -> tuple[int, ...]:
    """The numbers of the words in ``draft.text`` that begin a sentence."""
    if not draft.ends:
        return ()
    starts = {number + 1 for number in last_words(draft)[:-1]}
    return (0, *sorted(starts))
