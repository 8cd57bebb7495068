"""One writing of what Unicode writes in several ways: full-width and invisible signs, jamo, units, numbers.

The standard's NFKC would do most of it, but it takes compatibility jamo apart (ㅋ to a conjoining onset),
writes ½ with a sign of its own and ⑴ with brackets. So only what is named here is folded.
"""

import re
import unicodedata

_INVISIBLE: dict[int, int | None] = {
    code: None
    for code in (
        *range(0x200B, 0x2010),
        *range(0x202A, 0x202F),
        *range(0x2060, 0x2070),
        *range(0xD800, 0xE000),
        0xFEFF,
        0xAD,
        0x115F,
        0x1160,
        0x3164,
        0xFFA0,
    )
}
_FULL_WIDTH: dict[int, int | None] = {
    **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)},
    **{code: 0x30 + (code - 0x1D7CE) % 10 for code in range(0x1D7CE, 0x1D800)},  # 𝟏
    0x3000: 0x20,
    0xFFE0: 0xA2,
}
_CONTROLS: dict[int, int | None] = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), 0x20)
# Anything outside these needs the slow path of `fold_forms`: most lines are syllables and ASCII already.
_UNUSUAL = re.compile(r"[^ -~가-힣ㄱ-ㅣ]")
# An old syllable (ᄒᆞᆫ) has no composed form: its onset, nucleus and coda stay together.
_OLD_SYLLABLE = re.compile(r"[ᄀ-ᅞꥠ-ꥼ]+[ᅡ-ᆧힰ-ퟆ]+[ᆨ-ᇿퟋ-ퟻ]*|[가-힣][ᇃ-ᇿퟋ-ퟻ]+")


def _letters_of_loose_jamo() -> dict[int, int]:
    """Map conjoining and half-width jamo that NFC left alone to the compatibility letters people type."""
    letters = {}
    for letter in map(chr, range(0x3131, 0x3164)):
        nfkc = unicodedata.normalize("NFKC", letter)
        letters[ord(nfkc)] = ord(letter)
    for half_width in range(0xFFA0, 0xFFDD):
        full = unicodedata.normalize("NFKD", chr(half_width))
        if ord(full) in letters:
            letters[half_width] = letters[ord(full)]
    finals = "ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
    return letters | {0x11A8 + index: ord(letter) for index, letter in enumerate(finals)}


_LOOSE_JAMO = _letters_of_loose_jamo()


def fold_forms(line: str) -> str:
    """Return NFC with full-width forms and styled digits as ASCII, without what is invisible.

    Zero-width characters go, control characters become spaces, loose jamo the letters that people type. Old
    syllables, which have no composed form, stay as they are.

    >>> fold_forms("ＳＲＴ" + chr(0x200B)), fold_forms(chr(0x110F)), len(fold_forms("ᄒᆞᆫ"))
    ('SRT', 'ㅋ', 3)
    """
    if not _UNUSUAL.search(line):
        return line
    line = line.translate(_CONTROLS | _INVISIBLE | _FULL_WIDTH)
    line = unicodedata.normalize("NFC", line)
    kept = 0
    parts = []
    for old in _OLD_SYLLABLE.finditer(line):
        parts += [line[kept : old.start()].translate(_LOOSE_JAMO), old[0]]
        kept = old.end()
    return "".join([*parts, line[kept:].translate(_LOOSE_JAMO)])


_COMPATIBILITY = (
    (0x00B2, 0x00B4),  # ²
    (0x00B9, 0x00BA),
    (0x00BC, 0x00BF),  # ½
    (0x2070, 0x20A0),  # raised and lowered digits
    (0x2113, 0x2114),  # ℓ
    (0x2116, 0x2117),  # №
    (0x2121, 0x2122),  # ℡
    (0x2150, 0x2190),  # ⅓ Ⅲ
    (0x2460, 0x2500),  # ① ⑴ ⒈ ⓐ
    (0x2776, 0x2794),  # ❶
    (0x3200, 0x3400),  # ㈜ ㉠ ㎞ ㏊
    (0xFB00, 0xFB07),  # ﬁ
    (0xFE50, 0xFE6C),  # ﹪
    (0x1D400, 0x1D7CE),  # 𝐀
)


def _spelling(character: str) -> str:
    """Return the letters and digits a character stands for, "" for none; a fraction keeps its stroke."""
    spelt = unicodedata.normalize("NFKC", character)
    if 0xFE50 <= ord(character) < 0xFE6C:
        return spelt if spelt != character else ""
    if spelt == character:  # ❶, ⓫: numbers without a compatibility form
        return str(int(unicodedata.numeric(character, 0))) if unicodedata.numeric(character, 0) else ""
    spelt = spelt.replace("⁄", "/").replace("∕", " ")
    return fold_forms("".join(c for c in spelt if c.isalnum() or c in "/ "))


_SPELLINGS = {
    chr(code): spelling
    for first, end in _COMPATIBILITY
    for code in range(first, end)
    if (spelling := _spelling(chr(code)))
}
_SPELT = re.compile("[" + "".join(map(re.escape, _SPELLINGS)) + "]")


def spell_symbols(line: str) -> str:
    """Return ``line`` with units, circled and Roman numbers, fractions and the like in letters and digits.

    Two numbers never run into one: a space parts them.

    >>> spell_symbols("5㎞ ① ½ 3½ Ⅲ 10²")
    '5km 1 1/2 3 1/2 III 10 2'
    """
    end, parts = 0, []
    before = ""
    for symbol in _SPELT.finditer(line):
        between = line[end : symbol.start()]
        end = symbol.end()
        spelt = _SPELLINGS[symbol[0]]
        before = between[-1:] or before
        after = line[end : end + 2].lstrip(",.")[:1]  # a comma would make thousands of two numbers
        left = " " if before.isdigit() and spelt[0].isdigit() else ""
        right = " " if spelt[-1].isdigit() and after.isdigit() and after not in _SPELLINGS else ""
        parts += [between, left, spelt, right]
        before = right or spelt[-1]
    return "".join([*parts, line[end:]])
