"""Korean numbers in words: patterns that find them, and their values.

Sino-Korean numbers (``이천이십사``) are built of digits, 십 백 천 and the large units 만 억 조 경, each of
which counts what stands before it; native ones (``서른여섯``) reach 99, after which Sino-Korean hundreds come
before them. A phone number is read digit by digit. Single spaces may stand between all parts, as KsponSpeech
writes ``이 십 삼``. A pattern takes well-formed numbers only: ``삼사십`` (thirty or forty) is none.

>>> value("이천이십사"), value("만 오천"), value("백스물한"), value("삼점일사")
(2024, 15000, 121, Decimal('3.14'))
>>> value("공일공"), digits("공일공")
(10, '010')
"""

from decimal import Decimal

_DIGITS = {
    name: number for number, names in enumerate(("영공", *"일이삼사오", "육륙", *"칠팔구")) for name in names
}
_SMALL = {"십": 10, "백": 100, "천": 1000}
LARGE = {"만": 10**4, "억": 10**8, "조": 10**12, "경": 10**16}
_TENS = {
    "열": 10, "스물": 20, "스무": 20, "서른": 30, "마흔": 40, "쉰": 50, "예순": 60, "일흔": 70, "여든": 80,
    "아흔": 90,
}  # fmt: skip
_ONES = {
    "하나": 1, "한": 1, "둘": 2, "두": 2, "셋": 3, "세": 3, "넷": 4, "네": 4, "다섯": 5, "여섯": 6,
    "일곱": 7, "여덟": 8, "아홉": 9,
}  # fmt: skip
NATIVE = _TENS | _ONES

# Patterns: each has at most one space between two parts, and none around it.
_D = "[일이삼사오육륙칠팔구]"
_FOUR = (
    f"(?=[일이삼사오육칠팔구십백천])(?:(?:{_D} ?)?천 ?)?(?:(?:{_D} ?)?백 ?)?(?:(?:{_D} ?)?십 ?)?{_D}?(?<! )"
)
SMALL = _FOUR  # below 10,000
# 만, 조 and 경 begin many words: 이 만화, 이 조건, 구 경찰.
_MAN = "만(?!화|두 |들|약|족|나(?:$|[^ ]))"
_LARGE = (
    f"(?:억|{_MAN}"
    "|조(?!건|명|카|금|합|직|율|각|심|용|리|교|끼|언|작|절|폭|회|사(?![천백십조 ]))"
    "|경(?!사|찰|제|기|치|우|험|력|쟁|매|영|비|도|남|북|고|로|유|계|관|하|향|이))"
)
SINO = f"(?:{_MAN}(?: ?{_FOUR})?|{_FOUR}(?: ?{_LARGE}(?: ?{_FOUR})?){{0,4}})"
DIGIT = "[영공일이삼사오육륙칠팔구]"
READ = f"{DIGIT}(?: ?{DIGIT})+"  # digit by digit
_ONE = "(?:한|두|세|네|다섯|여섯|일곱|여덟|아홉)"
_TEN = "(?:열|스물|서른|마흔|쉰|예순|일흔|여든|아흔)"
_HUNDRED = f"(?:{_D} ?)?백 ?"
_BELOW_HUNDRED = f"{_TEN} ?{_ONE}|스무|서른|마흔|쉰|예순|일흔|여든|아흔"
ELEVEN_UP = f"(?:{_BELOW_HUNDRED}|{_HUNDRED}(?:{_BELOW_HUNDRED}|열|{_ONE}))"
TO_TEN = f"(?:{_ONE}|열)"
DECIMAL = f"(?:영|공|{SINO}) ?점 ?{DIGIT}(?: ?{DIGIT})*(?:{_LARGE})?"


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
    at, last = 0, 10**20
    while at < len(text):
        one = text[at]
        native = next((name for name in (text[at : at + 2], one) if name in NATIVE), None)
        if native is not None:
            section += NATIVE[native]
            at += len(native) - 1
        elif one in _DIGITS:
            digit = _DIGITS[one]
        elif one in _SMALL:
            section += (digit or 1) * _SMALL[one]
            digit = 0
        elif one in LARGE:
            if LARGE[one] >= last:
                raise KeyError(f"{text!r} is not a number")
            last = LARGE[one]
            total += (section + digit or 1) * LARGE[one]
            section = digit = 0
        else:
            raise KeyError(f"{text!r} is not a number")
        at += 1
    return total + section + digit
