"""A user's terms: what is said becomes what is to be read, such as 챗지피티 and ChatGPT.

A term is found where a word begins and where one ends, with particles attached or without; of several the
longest. A space inside a term may be missing from the speech: 서울 시청 is found in 서울시청 too.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.finishing.draft import Draft, Edit
from ko_asr.finishing.particles import ATTACHED
from ko_asr.finishing.user_lists import lines_of

_END = ""  # the key of what a path through the trie is written as
_ARROW = re.compile(r"\t| ?(?:->|→) ?")
_attached = re.compile(ATTACHED).match


class Terms:
    """Compiled terms: a stage. What it writes, no later stage changes."""

    def __init__(self, terms: Mapping[str, str], where: str = "terms") -> None:
        """UserError for a term with an empty side."""
        self._trie: dict[str, Any] = {}
        pairs = {_tidy(spoken): _tidy(written) for spoken, written in terms.items()}
        for spoken, written in pairs.items():
            if not spoken or not written:
                raise UserError(f"{where}: the term {spoken!r} -> {written!r} has an empty side: write both")
        # What is written already stays, so that finishing twice is finishing once.
        for spoken, written in ({written: written for written in pairs.values()} | pairs).items():
            node = self._trie
            for char in spoken:
                node = node.setdefault(char, {})
            node[_END] = written
        first = "".join(map(re.escape, self._trie)) or "^\x00-\U0010ffff"
        self._begin = re.compile(f" [{first}]").finditer

    def __call__(self, draft: Draft) -> None:
        """Write the terms in ``draft``."""
        edits, kept = [], []
        for start, end, written in self._found(draft.text):
            edits += _edits(draft.text, start, end, written)
            kept.append(draft.origin(start, end))
        draft.replace(edits)
        draft.protect(kept)

    def _found(self, text: str) -> Iterator[tuple[int, int, str]]:
        done = 0
        for match in self._begin(f" {text}"):
            start = match.start()
            if start < done:
                continue
            longest = max(self._ends(text, start, self._trie), default=None)
            if longest is not None:
                yield start, *longest
                done = longest[0]

    def _ends(self, text: str, at: int, node: dict[str, Any]) -> Iterator[tuple[int, str]]:
        """The ends of terms that go on at ``at``, and how they are written."""
        while node:
            if _END in node and _attached(text, at):
                yield at, node[_END]
            if " " in node and text[at : at + 1] != " ":
                yield from self._ends(text, at, node[" "])
            node = node.get(text[at : at + 1], {}) if at < len(text) else {}
            at += 1


def _edits(text: str, start: int, end: int, written: str) -> list[Edit]:
    """One edit for each word where both sides have as many, so that each keeps its times."""
    spoken = text[start:end].split(" ")
    words = written.split(" ")
    if len(spoken) != len(words):
        return [Edit(start, end, written)]
    edits = []
    for old, new in zip(spoken, words, strict=True):
        if old != new:
            edits.append(Edit(start, start + len(old), new))
        start += len(old) + 1
    return edits


def _tidy(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def read_terms(path: Path) -> dict[str, str]:
    """Read a file of terms: ``spoken -> written`` or two columns with a tab a line; # begins a comment.

    UserError with file and line for a line with an empty side, a term that is written in two ways, or a file
    that is not UTF-8.
    """
    terms: dict[str, str] = {}
    for number, line in lines_of(path):
        sides = [_tidy(side) for side in _ARROW.split(line)]
        if len(sides) != 2 or not all(sides):
            raise UserError(
                f"{path}, line {number}: {line.strip()!r:.80} is no term: write spoken -> written"
            )
        if terms.setdefault(sides[0], sides[1]) != sides[1]:
            raise UserError(
                f"{path}, line {number}: {sides[0]!r} is written {terms[sides[0]]!r} above: keep one of them"
            )
    return terms
