"""Rules that a pattern alone cannot write: codes by the numbering plan, letters by their names, addresses.

Each takes a match and the style and returns its edits, or None to decline it.
"""

import re
from collections.abc import Mapping

from ko_asr.finishing import numbers
from ko_asr.finishing.draft import Edit
from ko_asr.finishing.rule_book import alternatives, rule_book

Style = Mapping[str, str]
_DASH = "다시|대시|하이픈"
# No space before 천 alone: with that of a separator there would be two ways to read each 다시 천.
_THOUSAND = "(?:[일이삼사오육칠팔구] ?)?천(?: ?(?:[일이삼사오육칠팔구] ?)?백)?"
_DIGIT = f"(?:{numbers.DIGIT}|하나)"  # 하나 is clearer than 일 on the telephone
_READ = f"{_DIGIT}(?: ?{_DIGIT})+"
_SEPARATOR = f" ?(?:{_DASH}|국에|국의|에|의) ?"
# 1588 and the like are read as numbers too.
_SERVICE = f"천[오육팔]백(?:{numbers.DIGIT}?십)?{numbers.DIGIT}?(?=에 ?{numbers.DIGIT})"
GROUPS = f"(?:{_SERVICE}|{_READ})(?:(?:{_SEPARATOR}| )(?:{_THOUSAND}|{_READ}|{_DIGIT}))*"
_NAMES = (
    "A에이 B비 C씨 C시 D디 E이 F에프 G지 H에이치 I아이 J제이 K케이 L엘 M엠 N엔 O오 P피 Q큐 R아르 R알 S에스"
    " T티 U유 V브이 W더블유 W더블류 X엑스 Y와이 Z제트"
)
LETTER_NAMES = {name[1:]: name[0] for name in _NAMES.split()}
_WEAK = frozenset("비씨시디이지오피알티유") | {"아이"}  # names that are parts of other words
_LETTER = alternatives(LETTER_NAMES)
LETTERS = f"(?:{_LETTER})(?: ?(?:{_LETTER}))*"
_SUFFIXES = frozenset("방팀조급형반석권사점주차비값")
_NAME = re.compile(_LETTER)
_REST = re.compile(
    "(?=$| |[은는을를에의로와과도만랑나야고면]|이(?:$| |[고나며에었야지라랑다])|가(?:$| )|까지|부터|으로"
    "|인데|인가|인(?:$| )|입니|예요|였|네요|하고|보다|처럼|밖에|요)"
)
# The plan of Korea's telephone numbers, and those of residents and cards.
_PLAN = tuple(
    re.compile(pattern)
    for pattern in (
        r"(01[016789])(\d{3,4})(\d{4})",
        r"(02)(\d{3,4})(\d{4})",
        r"(0[3-6]\d|070|080|050\d)(\d{3,4})(\d{4})",
        r"(1[568]\d\d)(\d{4})",
        r"(\d{6})([1-8]\d{6})",
        r"([3-9]\d{3})(\d{4})(\d{4})(\d{4})",
    )
)
_COPULA = re.compile("요|예요|에요|었|며|면|고|라|랑|나|야|지|죠|다|래|란|더|던|든|네|잖")  # behind 이
_CALL = re.compile("[로에] ?(?:신고|전화)")
_LEAST = 4  # digits of a code without a word that says what it is
_CODE = re.compile(f"{numbers.DIGIT}{{{_LEAST},}}(?![^ 에의])")
_EMERGENCY = frozenset({"119", "114", "120", "131", "1339", "182"})


def code(match: re.Match[str], style: Style) -> list[Edit] | None:
    """Digits read one by one: a telephone, resident, card or account number, or a code."""
    start, end = match.span("groups_0")
    text = match["groups_0"]
    if text.endswith("이") and _COPULA.match(match.string, end):
        text, end = text[:-1].rstrip(), end - 1
    groups = [_group(part) for part in re.split(f"{_SEPARATOR}| ", text) if part]
    whole = "".join(groups)
    written = _planned(whole)
    if whole == "112" and (_CALL.match(match.string, end) or "신고" in match.string[:start]):
        written = whole
    if written is None:
        written = _spoken_groups(text, groups, whole, match.string[max(0, start - 8) : start])
    if written is None and len(groups) > 1 and (first := _CODE.match(text)):
        text, written = first[0], numbers.digits(first[0])  # what follows is no part of it: 일삼오육칠 사 층
        end = start + len(text)
    if written is None:
        return None
    if " " in written:
        parts = [part for part in re.finditer("[^ ]+", text) if _group(part[0])]
        edits = [Edit(start + part.start(), start + part.end(), _group(part[0])) for part in parts]
    else:
        edits = [Edit(start, end, written)]
    if match.string.startswith(" 번", end) and not match.string.startswith(" 번호", end):
        edits.append(Edit(end, end + 1, ""))
    return edits


def _group(part: str) -> str:
    return (
        str(numbers.value(part))
        if re.search("[십백천]", part)
        else numbers.digits(part.replace("하나", "일"))
    )


def _planned(whole: str) -> str | None:
    for pattern in _PLAN:
        if found := pattern.fullmatch(whole):
            return "-".join(found.groups())
    return None


def _spoken_groups(text: str, groups: list[str], whole: str, before: str) -> str | None:
    named = re.search("번호|코드|번$|계좌|카드|비번|암호", before) is not None
    if len(whole) < (2 if named else _LEAST) and whole not in _EMERGENCY:
        return None
    if re.search(_DASH, text):
        return "-".join("".join(map(_group, part.split())) for part in re.split(f" ?(?:{_DASH}) ?", text))
    if len(groups) > 2 and min(map(len, groups)) > 1:
        return "-".join(groups)
    if len(groups) == 1 or max(map(len, groups)) == 1 or named:
        return whole
    apart = min(map(len, groups)) >= _LEAST - 1 and re.fullmatch(
        f"{numbers.DIGIT}+(?: {numbers.DIGIT}+)*", text
    )
    return " ".join(groups) if apart else None


def seat(match: re.Match[str], style: Style) -> list[Edit] | None:
    """A number and a letter, such as that of a seat."""
    end = match.end("letter")
    if style["letters"] == "hangul":
        return None
    number, last = match.span("plain_0")
    return [
        Edit(number, last, str(numbers.value(match["plain_0"]))),
        Edit(last, end, LETTER_NAMES[match["letter"]]),
    ]


_SIGNS = {"달러": "$", "불": "$", "유로": "€", "엔": "¥", "위안": "CN¥", "파운드": "£"}


def currency(match: re.Match[str], style: Style) -> list[Edit] | None:
    """A sum of foreign money, its sign before it."""
    number = numbers.value(match["number_0"])
    written = f"{number:,}" if style["commas"] == "counts" else str(number)
    return [Edit(match.start(), match.end(), _SIGNS[match["currency"]] + written)]


def letters(match: re.Match[str], style: Style) -> list[Edit] | None:
    """An abbreviation that is spelt by the names of its letters."""
    text, at = match.string, match.start()
    word = _word(text, at)
    if word.startswith(tuple(rule_book()["not_abbreviations"])):
        return None
    end, names = _run(text, match.end(), _NAME.findall(match[0]))
    known = next((one for one in _known(word) if _stands_alone(text, at, word, one)), "")
    while names or known:
        if len(known) >= end - at:
            return [Edit(at, at + len(known), rule_book()["abbreviations"][known])]
        strong = sum(name not in _WEAK for name in names)
        if len(names) > 1 and strong >= (2 if " " in text[at:end] else 1):
            return [Edit(at, end, "".join(LETTER_NAMES[name] for name in names))]
        last = text.rfind(" ", at, end)
        if last < 0:
            return None
        end, names = _run(text, last, _NAME.findall(text[at:last]))
    return None


def _stands_alone(text: str, at: int, word: str, known: str) -> bool:
    """True where a known abbreviation, with which ``word`` begins, may end."""
    rest = word[len(known) :]
    goes_on = len(rest) > 1 and not _NAME.match(rest)
    return _REST.match(text, at + len(known)) is not None or goes_on or rest in _SUFFIXES


def _run(text: str, end: int, names: list[str]) -> tuple[int, list[str]]:
    """Leave out the names at the end of a run that belong to what follows."""
    while names and not _may_end(text, end, names):
        end -= len(names.pop())
        while text[end - 1 : end] == " ":
            end -= 1
    return end, names


def _word(text: str, at: int) -> str:
    """The rest of the word from ``at`` on."""
    end = text.find(" ", at)
    return text[at:] if end < 0 else text[at:end]


def _known(word: str) -> list[str]:
    found = rule_book()["abbreviations"]
    return [word[:end] for end in range(len(word), 1, -1) if word[:end] in found]


def _may_end(text: str, end: int, names: list[str]) -> bool:
    if names[-1] == "이" and _REST.match(text, end - 1) and text[end - 2] != " ":
        return False  # a particle rather than the letter E
    if re.match("[이오][십백천]", text[end - 1 :]):
        return False  # a number begins
    if _REST.match(text, end) is not None:
        return True
    begins_word = text[end - len(names[-1]) - 1 : end - len(names[-1])] == " "
    goes_on = len(_word(text, end)) > 1
    return goes_on and not begins_word and names[-1] not in _WEAK


def _address(spoken: str) -> str | None:
    """Latin letters of a name in an address: a known one, spelt letters, digits; None for others."""
    known, written = rule_book()["web_names"], ""
    for word in spoken.split():
        if word in known:
            written += known[word]
        elif re.fullmatch(f"(?:{_LETTER}|{numbers.DIGIT})+", word):
            for name in re.findall(f"{_LETTER}|{numbers.DIGIT}", word):
                number = numbers.digits(name)
                behind_digit = number and written[-1:].isdigit()
                written += number if behind_digit else LETTER_NAMES.get(name, "").lower() or number
        elif re.fullmatch(numbers.SINO, word):
            written += str(numbers.value(word))
        else:
            return None
    return written


def _domain(tld: str) -> str:
    names = {"컴": "com", "넷": "net", "오알지": "org", "아이오": "io", "에이아이": "ai"}
    parts = [part for part in re.split("점|닷", tld.replace(" ", "")) if part]
    spelt = {"씨오": "co", "에이씨": "ac", "고": "go", "케이알": "kr"}
    joined = "".join(f".{names.get(part, spelt.get(part, part))}" for part in parts)
    return joined.replace("씨오케이알", "co.kr").replace("에이씨케이알", "ac.kr")


def mail(match: re.Match[str], style: Style) -> list[Edit] | None:
    """An address of electronic mail."""
    local, host = _address(match["mail"]), _address(match["host"])
    if local is None or host is None:
        return None
    return [Edit(match.start(), match.end(), f"{local}@{host}{_domain(match['tld'])}")]


def web(match: re.Match[str], style: Style) -> list[Edit] | None:
    """An address of the web."""
    host = _address(match["host"])
    if host is None:
        return None
    written, end = ("www." if match["www"] else "") + host + _domain(match["tld"]), match.end("tld")
    for part in re.finditer(" ?슬래시 ?([가-힣]+)", match["path"]):
        name = next((part[1][:size] for size in range(len(part[1]), 0, -1) if _address(part[1][:size])), None)
        if name is None:
            break
        written, end = f"{written}/{_address(name)}", match.start("path") + part.start(1) + len(name)
    return [Edit(match.start(), end, written)]
