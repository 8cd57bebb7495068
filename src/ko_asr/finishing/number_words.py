"""Digits to the Korean words in which they are said: the other way of `ko_asr.finishing.numbers`.

>>> sino(2024), sino(15000), sino(100_010_000), native(21), native(20), counted(101, 99)
('이천이십사', '만 오천', '일억 일만', '스물한', '스무', '백한')
>>> read("010"), decimal("3.14"), amount("4조 1,200억"), amount("1만 2천")
('공일공', '삼 점 일사', '사조 천이백억', '만 이천')
>>> amount("1천500"), amount("2만5000"), amount("1.5억")
('천오백', '이만 오천', '일 점 오억')
"""

import re

_DIGITS = "영일이삼사오육칠팔구"
_SMALL = ("", "십", "백", "천")
_LARGE = ("", "만", "억", "조", "경")
_MOST_DIGITS = 20  # longer numbers have no name that is said: they are read digit by digit
_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
_TIMES = {"": 1, "십": 10, "백": 100, "천": 1000}

# Patterns of what the functions below take.
WHOLE = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+(?!\d|,\d{3}(?!\d)))"
_COUNT = rf"{WHOLE}(?:\.\d+)?"
_UNIT = "(?:만|억|조(?![각건])|경(?!기|우|로))"
_WHOLE_AMOUNT = rf"(?![\d십백천]|\.\d|{_UNIT})"  # so that no pattern takes a part of one, 1 of 1억
AMOUNT = (
    rf"{_COUNT}(?:[십백천](?:{_UNIT})?|{_UNIT})?"
    rf"(?:(?<=[만억조경천]) ?{WHOLE}[백천]?{_UNIT})*"
    rf"(?:(?<=[만억조경천]) ?{WHOLE}[백천]?(?![.,:~]))?{_WHOLE_AMOUNT}"
)
_PART = re.compile(r"([\d,]+(?:\.\d+)?)([십백천]?)([만억조경]?)")


def _below_ten_thousand(number: int) -> str:
    words = ""
    for place, digit in zip((3, 2, 1, 0), f"{number:04}", strict=True):
        if digit != "0":
            words += ("" if digit == "1" and place else _DIGITS[int(digit)]) + _SMALL[place]
    return words


def sino(number: int) -> str:
    """Sino-Korean words, with a space before every four digits; 10,000 is 만, but 100,000,000 일억."""
    if number == 0:
        return _DIGITS[0]
    if number >= 10**_MOST_DIGITS:
        return read(str(number))
    parts: list[str] = []
    for place in range(len(_LARGE) - 1, -1, -1):
        section = number // 10 ** (4 * place) % 10000
        if section:
            bare = section == 1 and place == 1 and not parts
            parts.append(("" if bare else _below_ten_thousand(section)) + _LARGE[place])
    return " ".join(parts)


def month(number: int) -> str:
    """The number of a month before 월."""
    return {6: "유", 10: "시"}.get(number) or sino(number)


def native(number: int) -> str:
    """Native words of 1 to 99 in the form that stands before a counter."""
    return "스무" if number == 20 else _TENS[number // 10] + _ONES[number % 10]


def counted(number: int, limit: int) -> str:
    """Words before a native counter: native up to ``limit``, and in what is over hundreds (백한 명)."""
    if 0 < number <= limit:
        return native(number)
    if limit == 99 and 100 < number < 1000 and 0 < number % 100 < 10:
        return _below_ten_thousand(number // 100 * 100) + native(number % 100)
    return sino(number)


def read(digits: str, zero: str = "공") -> str:
    """Digit by digit; other characters are passed over."""
    return "".join(zero if one == "0" else _DIGITS[int(one)] for one in digits if one.isdigit())


def whole(text: str) -> int:
    """The value of digits with or without commas."""
    return int(text.replace(",", ""))


def decimal(text: str) -> str:
    """A number with or without a decimal fraction, whose digits are read one by one."""
    number, point, fraction = text.partition(".")
    if len(number) > 1 and number[0] == "0" and not point:
        return read(number)
    return sino(whole(number)) + (f" 점 {read(fraction, '영')}" if point else "")


def amount(text: str) -> str:
    """What AMOUNT finds: digits, with decimals, and with 천, 만, 억 and 조 between them."""
    found = _PART.findall(text)
    if len(found) == 1 and not found[0][1] and not found[0][2]:
        return decimal(text)
    words: list[str] = []
    section = 0
    for count, small, large in found:
        if "." in count:
            words.append(decimal(count) + small + large)
            continue
        section += whole(count) * _TIMES[small]
        if large or (count, small, large) == found[-1]:
            bare = section == 1 and large == "만" and not words
            words.append(("" if bare else sino(section)) + large)
            section = 0
    return " ".join(words)


def parts(text: str) -> str:
    """Numbers between points, as versions are read: 3.12 is 삼 점 십이."""
    return " 점 ".join(sino(int(part)) for part in text.split("."))
