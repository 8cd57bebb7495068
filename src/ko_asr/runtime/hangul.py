"""Hangul arithmetic: syllables, conjoining jamo and compatibility jamo (The Unicode Standard, section 3.12).

A precomposed syllable is onset (초성) + nucleus (중성) + optional coda (종성), and its code point is
``0xAC00 + (onset * 21 + nucleus) * 28 + coda``. Conjoining jamo keep onset and coda apart (ᄀ U+1100 is not
ᆨ U+11A8), so decomposing loses nothing and no letter repeats inside a word; compatibility jamo (ㄱ U+3131,
what a keyboard types in ㅋㅋ) have no such roles. This module needs the standard library only.
"""

import re
from typing import Literal

SYLLABLE_FIRST, SYLLABLE_LAST = 0xAC00, 0xD7A3
ONSET_BASE, NUCLEUS_BASE, CODA_BASE = 0x1100, 0x1161, 0x11A7
ONSET_COUNT, NUCLEUS_COUNT, CODA_COUNT = 19, 21, 28  # the 28 codas include "none", which is CODA_BASE itself
SYLLABLE_COUNT = ONSET_COUNT * NUCLEUS_COUNT * CODA_COUNT

ONSETS = "".join(chr(ONSET_BASE + i) for i in range(ONSET_COUNT))
NUCLEI = "".join(chr(NUCLEUS_BASE + i) for i in range(NUCLEUS_COUNT))
CODAS = "".join(chr(CODA_BASE + i) for i in range(1, CODA_COUNT))
JAMO = ONSETS + NUCLEI + CODAS

COMPAT_ONSETS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
COMPAT_NUCLEI = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
COMPAT_CODAS = "ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
COMPAT_JAMO = "".join(chr(c) for c in range(0x3131, 0x3164))

# The names of the letters as South Korean orthography has them (한글 맞춤법 제4항).
_CONSONANT_NAMES = """
ㄱ기역 ㄴ니은 ㄷ디귿 ㄹ리을 ㅁ미음 ㅂ비읍 ㅅ시옷 ㅇ이응 ㅈ지읒 ㅊ치읓 ㅋ키읔 ㅌ티읕 ㅍ피읖 ㅎ히읗
ㄲ쌍기역 ㄸ쌍디귿 ㅃ쌍비읍 ㅆ쌍시옷 ㅉ쌍지읒
"""
LETTER_NAMES = {entry[0]: entry[1:] for entry in _CONSONANT_NAMES.split()} | {
    jamo: chr(SYLLABLE_FIRST + (11 * NUCLEUS_COUNT + i) * CODA_COUNT) for i, jamo in enumerate(COMPAT_NUCLEI)
}


def _arithmetic(code: int) -> str:
    onset, rest = divmod(code - SYLLABLE_FIRST, NUCLEUS_COUNT * CODA_COUNT)
    nucleus, coda_index = divmod(rest, CODA_COUNT)
    return ONSETS[onset] + NUCLEI[nucleus] + (CODAS[coda_index - 1] if coda_index else "")


# code point of a syllable -> its two or three conjoining jamo, and back
DECOMPOSITION = {code: _arithmetic(code) for code in range(SYLLABLE_FIRST, SYLLABLE_LAST + 1)}
COMPOSITION = {jamo: chr(code) for code, jamo in DECOMPOSITION.items()}

COMPOSABLE = re.compile(f"[{ONSETS}][{NUCLEI}][{CODAS}]?|[가-힣][{CODAS}]")
_TO_COMPAT = str.maketrans(ONSETS + NUCLEI + CODAS, COMPAT_ONSETS + COMPAT_NUCLEI + COMPAT_CODAS)
_STAND_ALONE_RUN = re.compile(f"[{COMPAT_JAMO}]+")


def is_syllable(char: str) -> bool:
    """True when ``char`` is one of the 11,172 precomposed syllables.

    >>> is_syllable("값"), is_syllable("ㄱ"), is_syllable("a"), is_syllable("")
    (True, False, False, False)
    """
    return len(char) == 1 and SYLLABLE_FIRST <= ord(char) <= SYLLABLE_LAST


def decompose(text: str) -> str:
    """Replace every precomposed syllable by its conjoining jamo; nothing else changes (NFD for Hangul only).

    >>> [hex(ord(c)) for c in decompose("값 é")]
    ['0x1100', '0x1161', '0x11b9', '0x20', '0xe9']
    """
    return text.translate(DECOMPOSITION)


def _composed(match: re.Match[str]) -> str:
    group = match[0]
    if group in COMPOSITION:
        return COMPOSITION[group]
    without_coda = group[0]
    if (ord(without_coda) - SYLLABLE_FIRST) % CODA_COUNT:
        return group  # the syllable has a coda already, so the second one stays alone, as in NFC
    return chr(ord(without_coda) + ord(group[1]) - CODA_BASE)


def compose(text: str) -> str:
    """Join conjoining jamo into syllables, the inverse of `decompose` (NFC for Hangul only).

    Jamo that form no syllable stay as they are.

    >>> compose(decompose("닭이 꽥 OK")), compose("가" + chr(0x11A8)), len(compose(ONSETS[0] + "각"))
    ('닭이 꽥 OK', '각', 2)
    """
    return COMPOSABLE.sub(_composed, text)


def split_syllable(char: str) -> tuple[str, str, str]:
    """Onset, nucleus and coda of one syllable as conjoining jamo; the coda is "" where there is none.

    Raises ValueError when ``char`` is not a precomposed syllable.

    >>> [to_compat(part) for part in split_syllable("닭")], split_syllable("가")[2]
    (['ㄷ', 'ㅏ', 'ㄺ'], '')
    """
    if not is_syllable(char):
        raise ValueError(f"{char!r} is not a precomposed Hangul syllable")
    jamo = DECOMPOSITION[ord(char)]
    return jamo[0], jamo[1], jamo[2:]


def onset(char: str) -> str:
    """The initial consonant (초성) of a syllable as a conjoining jamo; ValueError as `split_syllable`."""
    return split_syllable(char)[0]


def nucleus(char: str) -> str:
    """The vowel (중성) of a syllable as a conjoining jamo; ValueError as `split_syllable`."""
    return split_syllable(char)[1]


def coda(char: str) -> str:
    """The final consonant (종성, 받침) of a syllable, "" where there is none; ValueError as `split_syllable`.

    >>> to_compat(coda("밖")), coda("바")
    ('ㄲ', '')
    """
    return split_syllable(char)[2]


def to_compat(text: str) -> str:
    """Conjoining jamo as compatibility jamo, for showing them one by one; roles (onset or coda) are lost.

    >>> to_compat(decompose("앉다"))
    'ㅇㅏㄵㄷㅏ'
    """
    return text.translate(_TO_COMPAT)


def stand_alone_jamo(text: str, rule: Literal["drop", "keep", "spell", "shorten"]) -> str:
    """Apply a rule to compatibility jamo that stand in running text (ㅋㅋ, ㅠㅠ, "ㄱ 자").

    ``drop`` removes them, because ㅋㅋ writes a laugh or a cry and not a spoken syllable; the spaces round
    them are left to the caller's whitespace rule. ``spell`` writes a single letter by its name (ㄱ 기역) and
    drops the runs, ``shorten`` cuts a repeated letter to two, and ``keep`` changes nothing. Which of them
    a corpus gets by default is written in one place, text/rules.yaml.

    >>> [stand_alone_jamo("ㄱ 자 ㅋㅋㅋㅋ", rule) for rule in ("drop", "keep", "spell", "shorten")]
    [' 자 ', 'ㄱ 자 ㅋㅋㅋㅋ', '기역 자 ', 'ㄱ 자 ㅋㅋ']
    """
    if rule == "keep":
        return text
    if rule == "drop":
        return _STAND_ALONE_RUN.sub("", text)
    if rule == "spell":
        return _STAND_ALONE_RUN.sub(lambda m: LETTER_NAMES.get(m[0], ""), text)
    if rule == "shorten":
        return re.sub(f"([{COMPAT_JAMO}])\\1{{2,}}", r"\1\1", text)
    raise ValueError(f"unknown rule for stand-alone jamo: {rule!r}")
