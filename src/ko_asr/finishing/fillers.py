"""Fillers, repetitions and words broken off: what a reader does not miss.

Half of the words that fill pauses are words of their own elsewhere (그 사람, 이제 끝났어): those go only
where they are held between pauses, or, when asked for, in front of words whose time they often fill.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ko_asr.finishing.draft import Draft, Edit
from ko_asr.finishing.silence import Sound, pause, sounds
from ko_asr.finishing.word_lists import whole_word, word_lists

_MARKS = ".,?!…"
_HANGUL = re.compile("[가-힣]+")
_DIGIT = re.compile("[영공일이삼사오육륙칠팔구십백천만억조\\d]+")


class Fillers:
    """Compiled lists: a stage. ``aggressive`` drops more words than are surely fillers."""

    def __init__(self, aggressive: bool = False) -> None:
        lists = word_lists()["fillers"]
        self._sure = {word: _Context(**unless) for word, unless in lists["sure"].items()}
        self._held = {word: whole_word(entry["then"]) for word, entry in lists["held"].items()}
        self._freely = [word for word, entry in lists["held"].items() if aggressive and not entry["then"]]
        self._aggressive = aggressive
        self._pause, self._syllable = lists["pause_ms"], lists["syllable_ms"]
        self._repetitions = _Repetitions(word_lists()["repetitions"])
        words = "|".join([*self._sure, *self._held])
        self._may = re.compile(f" (?:(?:{words})(?![^ .,?!…])|([^ ]+) (?:[^ ]+ )?\\1)").search

    def __call__(self, draft: Draft) -> None:
        """Drop the fillers and repetitions of ``draft``."""
        if " " not in draft.text or not self._may(f" {draft.text}"):
            return
        words = draft.text.split(" ")
        bare = [word.rstrip(_MARKS) for word in words]
        kept = self._kept(bare, None if self._held.keys().isdisjoint(bare) else sounds(draft))
        if len(kept) < len(words):
            draft.replace(_without(words, set(kept)))

    def _kept(self, words: Sequence[str], times: Sequence[Sound] | None) -> list[int]:
        """The numbers of the words that stay: dropped words bring others side by side, so until none goes."""
        kept, before = list(range(len(words))), len(words) + 1
        while 1 < len(kept) < before:
            before = len(kept)
            kept = self._repetitions.kept(words, self._unfilled(words, times, kept))
        return kept

    def _unfilled(
        self, words: Sequence[str], times: Sequence[Sound] | None, numbers: Sequence[int]
    ) -> list[int]:
        """Those of ``numbers`` that are no fillers; from the last, for 뭐 뭐 뭐 그냥."""
        kept: list[int] = []
        for at in range(len(numbers) - 1, -1, -1):
            before = numbers[at - 1] if at else None
            if not self._fills(words, times, numbers[at], before, kept[-1] if kept else None):
                kept.append(numbers[at])
        return kept[::-1]

    def _fills(
        self,
        words: Sequence[str],
        times: Sequence[Sound] | None,
        number: int,
        before: int | None,
        after: int | None,
    ) -> bool:
        word = words[number]
        ahead = "" if after is None else words[after]
        if word in self._sure:
            return not self._sure[word].makes_a_word("" if before is None else words[before], ahead)
        if word not in self._held:
            return False
        if times is not None and times[number].end - times[number].start >= self._syllable * len(word):
            silence = min(pause(times, before, number), pause(times, number, after))
            if silence >= self._pause:
                return True
        return word in self._freely or (self._aggressive and bool(self._held[word](ahead)))


class _Context:
    """What before or behind a filler makes a word of it."""

    def __init__(self, unless_next: str = "(?!)", unless_before: str = "(?!)") -> None:
        self._next, self._before = re.compile(unless_next).match, re.compile(unless_before).search

    def makes_a_word(self, before: str, ahead: str) -> bool:
        return bool(self._next(ahead) or self._before(before))


class _Repetitions:
    """Words said again, and words broken off in front of the whole word."""

    def __init__(self, lists: Mapping[str, Any]) -> None:
        self._words = whole_word(lists["words"])
        self._particle = whole_word(f".+(?:{lists['particles']})")
        self._only_particle = whole_word(f"(?:{lists['particles']})")
        self._purpose, self._standing = whole_word(lists["purpose"]), whole_word(lists["standing"])
        self._begun = {word: whole_word(entry) for word, entry in lists["begun"].items()}
        self._compound = whole_word(lists["compounds"])

    def kept(self, words: Sequence[str], numbers: Sequence[int]) -> list[int]:
        """Those of ``numbers`` whose word is not said again by the next; from the last, for 사 사 사자."""
        kept: list[int] = []
        at = len(numbers) - 1
        while at >= 0:
            number = numbers[at]
            ahead = [words[one] for one in kept[:-3:-1]]
            before = words[numbers[at - 1]] if at else ""
            if self._phrase_again(before, words[number], ahead):
                at -= 1
            elif not self._again(words[number], ahead[0] if ahead else "", before):
                kept.append(number)
            at -= 1
        return kept[::-1]

    def _phrase_again(self, first: str, second: str, ahead: Sequence[str]) -> bool:
        """True for two words that are said again: 가는 길에 가는 길에."""
        return [first, second] == ahead and first != second and bool(self._particle(second))

    def _again(self, word: str, ahead: str, before: str) -> bool:
        if not ahead.startswith(word) or not _HANGUL.fullmatch(word):
            return False
        if word == ahead:
            return bool(self._words(word) or (self._particle(word) and not self._purpose(word)))
        if word in self._begun and self._begun[word](ahead):
            return True
        if self._standing(word) or (_DIGIT.fullmatch(word) and _DIGIT.fullmatch(before)):
            return False
        rest = ahead[len(word) :]
        if len(word) == 1:
            return not _DIGIT.fullmatch(word)
        return not self._purpose(word) and bool(self._only_particle(rest) or not self._compound(rest))


def _without(words: Sequence[str], kept: set[int]) -> Iterator[Edit]:
    """Edits that leave ``kept`` with single spaces between them."""
    at, some, last = 0, False, sum(map(len, words)) + len(words) - 1
    for number, word in enumerate(words):
        end = at + len(word)
        if number in kept:
            some = True
        elif some:
            yield Edit(at - 1, end, "")
        else:
            yield Edit(at, min(end + 1, last), "")
        at = end + 1
