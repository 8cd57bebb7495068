"""Rules of ``spoken.yaml`` that a pattern alone cannot say: codes, Latin words, addresses.

Each takes the tables and a match, and returns its edits, or None to decline it.
"""

import re
from collections.abc import Mapping

from ko_asr.finishing import number_words
from ko_asr.finishing.draft import Edit

Tables = Mapping[str, Mapping[str, str]]

_NAMED = re.compile(r"(?:번호|코드|비번|암호|계좌|사번|카드|OTP|PIN)(?:[은는이가로]|입니다)? ?:? ?$")
_MODEL = re.compile("[A-Z] ?$|[a-z]$")
_BEFORE = 12  # characters before a code in which the word that says what it is may end
_LONG = 6  # digits without a comma that are a code even where no word says so
_CAPITALS = re.compile(r"[A-Z]{1,5}|[B-DF-HJ-NP-TV-XZ]{1,7}")
_CONSONANTS = re.compile(r"[b-df-hj-np-tv-z]{1,4}|[a-z]")
_SENTENCE = re.compile("[AIai](?: [a-z]|')")  # words of English, not names of letters
_CLOSED = frozenset("013678LMNR")  # signs whose names end in a consonant
_ADDRESS = re.compile(r"[a-z]+|\d+|[._/@-]|.")


def groups(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """Digits in groups: read one by one, a space between groups; thousands at the end are said as such."""
    found = re.findall(r"\d+", match[0])
    if len(found) == 1:
        found = [found[0][:3], found[0][3:-4], found[0][-4:]]
    said = [number_words.read(group) for group in found]
    if len(found) == 2 and found[1].endswith("000") and found[1][0] != "0":
        said[1] = number_words.sino(int(found[1]))
    plus = "플러스 " if match[0].startswith("+") else ""
    behind = " " if match.string.startswith("번", match.end()) else ""
    return [Edit(match.start(), match.end(), plus + " ".join(said) + behind)]


def dashed(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """Digits in groups between which dashes are said."""
    said = " 다시 ".join(number_words.read(group) for group in match[0].split("-"))
    return [Edit(match.start(), match.end(), said)]


def code(tables: Tables, match: re.Match[str]) -> list[Edit] | None:
    """Digits that are read one by one: named as a code, behind letters, begun by zeros, or many."""
    text, start = match.string, match.start()
    digits = match[0]
    after_letters = _MODEL.search(text, max(0, start - 2), start) is not None
    if text[start - 1 : start] == " " and (len(digits) != 4 or digits[:2] in ("19", "20")):
        after_letters = False  # CES 2024
    named = len(digits) > 2 and _NAMED.search(text, max(0, start - _BEFORE), start) is not None
    if not (
        named
        or (digits[0] == "0" and len(digits) > 1)
        or (after_letters and (len(digits) > 3 or (len(digits) == 3 and digits[-1] != "0")))
        or (len(digits) >= _LONG and not digits.endswith("000"))
    ):
        return None
    return [Edit(start, match.end(), number_words.read(digits))]


def equals(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """The sign of equality: the particle that fits what is before it."""
    before = match.string[: match.start()].rstrip()[-1:].upper()
    hangul = "가" <= before <= "힣"
    closed = (ord(before) - ord("가")) % 28 > 0 if hangul else before in _CLOSED
    start = match.start() - (match.string[match.start() - 1 : match.start()] == " ")
    return [Edit(start, match.end(), "은 " if closed else "는 ")]


def latin(tables: Tables, match: re.Match[str]) -> list[Edit] | None:
    """A Latin word: known, an abbreviation, or spelt by its letters; None for one that is read as a word."""
    text, start = match.string, match.start()
    if _SENTENCE.match(text, start) or (
        len(match["word"]) == 1 and re.search("[a-z] $", text[max(0, start - 2) : start])
    ):
        return None
    for word in dict.fromkeys((match[0], match["word"])):
        said = _known(tables, word)
        if said is not None:
            end = start + len(word)
            if re.match("-[가-힣]", text[end : end + 2]):
                end += 1
            return [Edit(start, end, said)]
    return None


def _known(tables: Tables, word: str) -> str | None:
    lower = word.lower()
    for table, key in (("abbreviation", word), ("words", lower), ("web", lower)):
        if key in tables[table]:
            return tables[table][key]
    if "&" in word:
        return (
            "앤".join(map(tables["letters"].__getitem__, word.upper().split("&"))) if len(word) == 3 else None
        )
    if re.fullmatch("[A-Z]2[A-Z]", word):
        return f"{tables['letters'][word[0]]}투{tables['letters'][word[2]]}"
    if _CAPITALS.fullmatch(word) or _CONSONANTS.fullmatch(word) or word.upper() in tables["spelt"]:
        return spelt(tables, word)
    return None


def spelt(tables: Tables, word: str) -> str:
    """The names of the letters of a word."""
    return "".join(tables["letters"][letter] for letter in word.upper())


def address(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """An address of the web or of electronic mail, without its scheme."""
    said: list[str] = []
    for part in _ADDRESS.findall(match["address"].lower()):
        said.append(_part(tables, part, late="점" in said))
    return [Edit(match.start(), match.end(), " ".join(said))]


def _part(tables: Tables, part: str, late: bool) -> str:
    """One part of an address; a domain's names are those behind its first point."""
    for table in ("domain", "marks", "web", "words") if late else ("marks", "web", "words"):
        if part in tables[table]:
            return tables[table][part]
    if part.isdigit():
        return number_words.read(part)
    return spelt(tables, part) if part.isascii() and part.isalpha() else part


def date(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """Year, month and day between marks."""
    month, day = next((match[m], match[d]) for m, d in (("m", "d"), ("m2", "d2"), ("m3", "d3")) if match[m])
    name = number_words.month(int(month))
    said = f"{number_words.sino(int(match['year']))}년 {name}월 {number_words.sino(int(day))}일"
    return [Edit(match.start(), match.end(), said)]


def fraction(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """A fraction, denominator first; numbers of which the first is greater are none (blood pressure)."""
    above, below = number_words.whole(match["a"]), number_words.whole(match["b"])
    said = f"{number_words.sino(below)}분의 {number_words.sino(above)}"
    if above > below:
        said = f"{number_words.sino(above)}에 {number_words.sino(below)}"
    return [Edit(match.start(), match.end(), said + (" " if match["unit"] is not None else ""))]


def counted_range(tables: Tables, match: re.Match[str]) -> list[Edit] | None:
    """From so many things to so many: what is counted is said with both numbers."""
    try:
        first, last = (number_words.whole(match[name]) for name in "ab")
    except ValueError:
        return None
    if first >= last:
        return None
    limit, what = (20 if match["what"] == "시간" else 99), match["what"]
    said = f"{number_words.counted(first, limit)} {what}에서 {number_words.counted(last, limit)} {what}"
    return [Edit(match.start(), match.end(), said)]


def seat(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """A number and a letter, such as that of a seat."""
    number = number_words.sino(number_words.whole(match["sino_0"]))
    return [Edit(match.start(), match.end(), f"{number} {tables['letters'][match['letter']]}")]


def plate(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """The plate of a car."""
    number = number_words.sino(number_words.whole(match["n"]))
    said = f"{number} {match['letter']} {number_words.read(match['d'])}"
    return [Edit(match.start(), match.end(), said)]


def parted(tables: Tables, match: re.Match[str]) -> list[Edit]:
    """A number and its part between which a dash is said, such as that of a house."""
    said = " 다시 ".join(number_words.sino(number_words.whole(match[name])) for name in "ab")
    return [Edit(match.start(), match.end(), said + (" " if match["behind"] is not None else ""))]
