"""Profanity written as ``*``: words of a list that the user can change.

Words are found whole, with particles attached or without, and not where what they stand in is no profanity:
the exceptions stand beside each word in the list (``profanity.txt`` explains its form).
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ko_asr.errors import UserError
from ko_asr.finishing.draft import Draft, Edit
from ko_asr.finishing.particles import ATTACHED
from ko_asr.finishing.user_lists import lines_of

_ENTRY = re.compile(r"(?:\((?P<behind>[^()~,]+)\) ?)?(?P<word>[^()~,:]+)(?P<any>~?)(?:: ?(?P<unless>[^:]+))?")


class Mask(NamedTuple):
    """``word``, masked ``behind`` a word only, or with ``any`` ending, and not inside one of ``unless``."""

    word: str
    behind: str = ""
    any: bool = False
    unless: tuple[str, ...] = ()


class Masks:
    """A compiled list: a stage. ``keep_first`` leaves the first character of each word."""

    def __init__(self, entries: Iterable[str] = (), keep_first: bool = False) -> None:
        """``entries`` are lines of a list, the built-in one where there are none. UserError for a bad one."""
        masks = [_mask(entry, "profanity") for entry in entries] or _built_in()
        self._keep = int(keep_first)
        self._masks: dict[str, list[Mask]] = {}
        for mask in sorted(masks, key=lambda mask: -len(mask.word)):
            self._masks.setdefault(mask.word, []).append(mask)
        words = "|".join(re.escape(word) for word in self._masks)
        # What begins with a plain space is found faster than what a space must stand in front of.
        self._find = re.compile(f" (?:{words})").finditer
        self._attached = re.compile(ATTACHED).match

    def __call__(self, draft: Draft) -> None:
        """Mask the words of the list in ``draft``."""
        text = f" {draft.text}"
        found = [match.span() for match in self._find(text) if self._holds(match)]
        keep = self._keep
        draft.replace(
            Edit(start + keep, end - 1, re.sub("[^ ]", "*", text[start + keep + 1 : end]))
            for start, end in found
        )

    def _holds(self, match: "re.Match[str]") -> bool:
        text, start, end = match.string, match.start() + 1, match.end()
        for mask in self._masks[match[0][1:]]:
            whole = mask.any or self._attached(text, end)
            if whole and (not mask.behind or _stands_behind(text, start, mask.behind)):
                return not any(_stands_in(text, start, end, exception) for exception in mask.unless)
        return False


def _stands_behind(text: str, at: int, word: str) -> bool:
    start = at - 1 - len(word)
    return start >= 0 and text.startswith(f"{word} ", start) and text[start - 1 : start] in ("", " ")


def _stands_in(text: str, start: int, end: int, exception: str) -> bool:
    at = text.find(exception, max(0, start - len(exception)), start + len(exception))
    return 0 <= at <= start and at + len(exception) >= end


def _mask(entry: str, where: str) -> Mask:
    found = _ENTRY.fullmatch(" ".join(unicodedata.normalize("NFC", entry).split()))
    if found is None or not found["word"].strip():
        shown = f"{entry.strip()!r:.80}"
        raise UserError(f"{where}: {shown} is no entry: write a word, or word: exception, exception")
    unless = tuple(one.strip() for one in (found["unless"] or "").split(",") if one.strip())
    return Mask(found["word"].strip(), (found["behind"] or "").strip(), bool(found["any"]), unless)


def read_masks(path: Path) -> list[str]:
    """Read a list of words to mask, for `Masks`. UserError with file and line for one that cannot be used."""
    entries = []
    for number, line in lines_of(path):
        _mask(line, f"{path}, line {number}")
        entries.append(line.strip())
    if not entries:
        raise UserError(f"{path}: holds no word: write one a line, or leave the list out")
    return entries


@cache
def _built_in() -> list[Mask]:
    path = Path(__file__).with_name("profanity.txt")
    return [_mask(line, f"{path.name}, line {number}") for number, line in lines_of(path)]
