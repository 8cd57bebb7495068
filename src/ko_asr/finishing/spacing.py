"""Repair of words that look wrongly spaced; text that may be right is left as it is.

With Kiwi: a space goes in front of a particle or an ending, and comes behind one in the middle of a word
where a noun, a verb or an adverb follows. Compounds and auxiliary verbs (먹어 보다, 먹어보다) may be
written either way, so they stay. Without Kiwi only words that are a particle or an ending go to the one
before.
"""

import re
from collections.abc import Iterator
from itertools import pairwise

from ko_asr.finishing import kiwi
from ko_asr.finishing.draft import Draft, Edit
from ko_asr.finishing.kiwi import Token
from ko_asr.finishing.word_lists import word_lists

# Particles of one syllable that are hardly ever a word: not 이, 가, 도, 만, 나.
_SHORT = frozenset("은는을를에로와과의")
_CONTENT = ("NNG", "NNP", "NP", "NR", "VV", "VA", "MAG", "MAJ", "MM", "VX", "VCN")
_DETERMINERS = frozenset(["그", "이", "저", "무슨", "어떤", "어느", "다른", "모든", "여러", "이런", "그런"])
_BOUND = frozenset(
    ["수", "적", "줄", "때문"]
)  # nouns behind a modifier, but for 데 and 지: these are endings too
_SUFFIXES = frozenset(["하", "되", "대", "거리"])  # verbs that make one of an adverb: 쿵쿵대다
_SHORTEST = 4  # syllables of a word that is taken apart


class Spacing:
    """A stage that repairs spaces, with or without Kiwi."""

    def __init__(self, with_kiwi: bool) -> None:
        self._with_kiwi = with_kiwi
        self._attached = re.compile(f" (?=(?:{word_lists()['spacing']['attached']})(?![^ ]))").finditer

    def __call__(self, draft: Draft) -> None:
        """Repair the spaces of ``draft``."""
        if self._with_kiwi:
            draft.replace(_by_tokens(draft.text, kiwi.tokens(draft)))
        else:
            draft.replace(self._by_list(draft.text))

    def _by_list(self, text: str) -> Iterator[Edit]:
        for match in self._attached(text):
            yield Edit(match.start(), match.end(), "")


def _by_tokens(text: str, tokens: list[Token]) -> Iterator[Edit]:
    for number, (before, token) in enumerate(pairwise(tokens)):
        between = text[before.end : token.start]
        if between == " " and _is_attached(before, token, tokens[max(0, number - 1)]):
            yield Edit(before.end, token.start, "")
        elif before.end == token.start < token.end and text[token.start - 1] != " ":
            ahead = tokens[min(number + 2, len(tokens) - 1)]
            if _is_new_word(before, token, ahead) and _may_divide(text, before, token.start):
                yield Edit(token.start, token.start, " ")


def _may_divide(text: str, before: Token, at: int) -> bool:
    """True unless a word is short, redoubled (만질만질한), or a compound that one syllable begins (큰코)."""
    start = text.rfind(" ", 0, at) + 1
    head = text[start : start + _SHORTEST]
    long = len(head) == _SHORTEST and " " not in head
    return long and (at - start > 1 or before.tag == "MM") and head[:2] != head[2:]


def _is_attached(before: Token, token: Token, two_before: Token) -> bool:
    """True for a particle, an ending or a suffix that a space divides from its word."""
    if token.tag.startswith("J"):
        to_noun = before.tag[0] in "NS" or before.tag in ("XSN", "ETN")
        return to_noun and (len(token.form) > 1 or token.form in _SHORT)
    if token.tag in ("EP", "EF", "EC", "ETM", "ETN"):
        return before.tag[0] == "V" or before.tag in ("EP", "XSV", "XSA")
    if token.tag == "XSN":
        return token.form == "들" and before.tag[0] == "N"
    return token.tag == "VX" and token.form == "하" and before.tag == "EC" and two_before.tag.startswith("VA")


def _is_new_word(before: Token, token: Token, ahead: Token) -> bool:
    """True where a word must end between two tokens."""
    tag = token.tag.split("-")[0]
    if tag not in _CONTENT:
        return tag == "NNB" and before.tag == "ETM" and token.form in _BOUND
    if before.tag.startswith("J") or before.tag == "ETM" or (before.form, before.tag) == ("수", "NNB"):
        return tag != "VX"
    if before.tag == "EF":
        return before.form[-1] in "요다까"
    if before.tag == "EC":
        return tag not in ("VX", "NR") or (before.form, token.form) == ("고", "나")
    if before.tag == "MM":
        return before.form in _DETERMINERS and tag in ("NNG", "NNP") and len(token.form) > 1
    if before.tag != "MAG" or len(before.form) == 1 or token.form in _SUFFIXES:
        return False
    return tag in ("VV", "VA") or (tag == "NNG" and ahead.tag == "XSV")
