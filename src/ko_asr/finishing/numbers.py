"""Korean numbers in words: patterns that find them, their values, and how they are written in digits.

Sino-Korean numbers (``이천이십사``) are built of digits, 십 백 천 and the large units 만 억 조 경, each of which
counts what stands before it; native ones (``서른여섯``) reach 99, after which Sino-Korean hundreds come before
them. A phone number is read digit by digit. Single spaces may stand between all parts, as KsponSpeech writes
``이 십 삼``. A pattern takes well-formed numbers only: ``삼사십`` (thirty or forty) is none.

>>> value("이천이십사"), value("만 오천"), value("백스물한"), value("삼점일사")
(2024, 15000, 121, Decimal('3.14'))
>>> value("공일공"), digits("공일공")
(10, '010')
"""

from decimal import Decimal

_DIGITS = {
    "영": 0, "공": 0, "일": 1, "이": 2, "삼": 3, "사": 4, "오": 5, "육": 6, "륙": 6, "칠": 7, "팔": 8, "구": 9,
}  # fmt: skip
_SMALL = {"십": 10, "백": 100, "천": 1000}
LARGE = {"만": 10**4, "억": 10**8, "조": 10**12, "경": 10**16}
_TENS = {
    "열": 10, "스물": 20, "스무": 20, "서른": 30, "마흔": 40, "쉰": 50, "예순": 60, "일흔": 70, "여든": 80, "아흔": 90,
}  # fmt: skip
_ONES = {
    "하나": 1, "한": 1, "둘": 2, "두": 2, "셋": 3, "세": 3, "넷": 4, "네": 4, "다섯": 5, "여섯": 6, "일곱": 7,
    "여덟": 8, "아홉": 9,
}  # fmt: skip
NATIVE = _TENS | _ONES

# Patterns: each has at most one space between two parts, and none around it.
_D = "[일이삼사오육륙칠팔구]"
_X, _H, _T = (f"(?:{_D} ?)?{unit}" for unit in "십백천")
_FOUR = f"(?:{_T}(?: ?{_H})?(?: ?{_X})?(?: ?{_D})?|{_H}(?: ?{_X})?(?: ?{_D})?|{_X}(?: ?{_D})?|{_D})"
_TAIL = f"(?: ?{_FOUR})?"
_MAN = f"(?:{_FOUR} ?)?만"
_EOK = f"{_FOUR} ?억(?: ?{_MAN})?"
SINO = f"(?:{_FOUR} ?[조경](?: ?{_EOK}| ?{_MAN})?{_TAIL}|{_EOK}{_TAIL}|{_MAN}{_TAIL}|{_FOUR})"
ROUND = f"(?:{_FOUR} ?[조경](?: ?{_FOUR} ?억)?(?: ?{_MAN})?|{_FOUR} ?억(?: ?{_MAN})?|{_MAN})"  # ends in 만, 억, 조
DIGIT = "[영공일이삼사오육륙칠팔구]"
READ = f"{DIGIT}(?: ?{DIGIT})+"  # digit by digit
_ONE = "(?:한|두|세|네|다섯|여섯|일곱|여덟|아홉)"
_TEN = "(?:열|스물|서른|마흔|쉰|예순|일흔|여든|아흔)"
ELEVEN_UP = f"(?:(?:{_H} ?)(?:{_TEN} ?{_ONE}|{_TEN}|스무|{_ONE})|{_TEN} ?{_ONE}|스무|서른|마흔|쉰|예순|일흔|여든|아흔)"
TO_TEN = f"(?:{_ONE}|열)"
DECIMAL = f"(?:{SINO}|영|공) ?점 ?{DIGIT}(?: ?{DIGIT})*"


def digits(text: str) -> str:
    """The digits of a number that is read digit by digit; other characters are passed over."""
    return "".join(str(_DIGITS[one]) for one in text if one in _DIGITS)


def value(text: str) -> int | Decimal:
    """The value of a number that one of the patterns has found; KeyError for what is none."""
    text = text.replace(" ", "")
    if "점" in text:
        whole, fraction = text.split("점")
        return Decimal(f"{value(whole)}.{digits(fraction)}")
    if len(text) > 1 and all(one in _DIGITS for one in text):
        return int(digits(text))
    total = section = digit = 0
    at = 0
    while at < len(text):
        one = text[at]
        native = next((name for name in (text[at : at + 2], one) if name in NATIVE), None)
        if one in _DIGITS:
            digit = _DIGITS[one]
        elif one in _SMALL:
            section += (digit or 1) * _SMALL[one]
            digit = 0
        elif one in LARGE:
            total += (section + digit or 1) * LARGE[one]
            section = digit = 0
        elif native is not None:
            section += NATIVE[native]
            at += len(native) - 1
        else:
            raise KeyError(f"{text!r} is not a number")
        at += 1
    return total + section + digit


def grouped(number: int) -> str:
    """The number with a comma before every three digits."""
    return f"{number:,}"
