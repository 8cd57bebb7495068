"""What a written text says, whatever its style: ``₩15,000``, ``1만 5천 원`` and ``15000원`` are one.

Companies and test sets differ in style; a wrong number is wrong in every one. `folded` takes the style off
both sides of a comparison. It changes digits and what belongs to them, so a number that was left in words
stays a difference, except for the few that are usual in words.
"""

import re
import unicodedata
from decimal import Decimal

_LARGE = {"만": 10**4, "억": 10**8, "조": 10**12, "경": 10**16}
_SMALL = {"백": 100, "천": 1000}
_CURRENCIES = {"$": "달러", "€": "유로", "£": "파운드", "¥": "엔"}
# Symbols in lower case and the words that they stand for; names of currencies that have two.
_UNITS = {
    "km": "킬로미터", "cm": "센티미터|센치미터|센티|센치", "mm": "밀리미터|미리미터|밀리|미리", "m": "미터",
    "km2": "제곱킬로미터|평방킬로미터", "m2": "제곱미터|평방미터", "m3": "세제곱미터|입방미터",
    "km/h": "킬로미터퍼시간", "m/s": "미터퍼초", "kg": "킬로그램|킬로그람|킬로", "mg": "밀리그램",
    "g": "그램|그람",
    "t": "톤", "l": "리터|ℓ", "ml": "밀리리터", "cc": "씨씨|시시", "°": "도|°c", "py": "평",
    "gb": "기가바이트|기가", "mb": "메가바이트|메가", "tb": "테라바이트|테라", "kb": "킬로바이트",
    "ghz": "기가헤르츠", "mhz": "메가헤르츠", "khz": "킬로헤르츠", "hz": "헤르츠", "rpm": "알피엠",
    "kwh": "킬로와트시", "kw": "킬로와트", "mw": "메가와트", "w": "와트", "v": "볼트", "ma": "밀리암페어",
    "a": "암페어", "kcal": "킬로칼로리", "db": "데시벨", "hpa": "헥토파스칼", "ppm": "피피엠",
    "%p": "퍼센트포인트|프로포인트|%포인트", "%": "퍼센트|프로", "달러": "불", "엔": "위안",
}  # fmt: skip
_UNIT_OF = {name: unit for unit, names in _UNITS.items() for name in names.split("|")}
_UNIT = re.compile(rf"(?<=\d)(?:{'|'.join(sorted(_UNIT_OF, key=len, reverse=True))})")
_ONES = ("한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉", "열")
_NATIVE = {word: number for number, word in enumerate(_ONES, 1)} | {"첫": 1}
# Counters before which one to ten stay in words; joined only where the two are no other word (한번, 한잔).
_JOINED = "번째|개|마리|병|사람|명|송이|그루|장|권|살"
_SPACED = (
    f"{_JOINED}|번|분|잔|대|켤레|가지|군데|곳|달|배|벌|채|통|판|곡|편|줄|칸|끼"
    "|모금|접시|그릇|봉지|상자|건|팀|층"
)
_FEW = re.compile(rf"(?<!\w)({'|'.join(_NATIVE)})(?:(?={_JOINED})| (?={_SPACED}))")
# A digit, a unit, and what follows of the same number: 1억5천만, 3만5000; not the next one's decimals.
_CHAIN = re.compile(r"\d+(?:\.\d+)?[백천만억조경](?:\d+(?![\d.-])[백천만억조경]?|[백천만억조경])*")
_PART = re.compile(r"(\d+(?:\.\d+)?)?([백천])?([만억조경])?")
_FRACTION = re.compile(r"(√?\d+(?:\.\d+)?)분의(√?\d+(?:\.\d+)?)")
_SIGNED = re.compile(r"([$€£¥])([\d.]+(?:[천만억조]|(?<=[천만억조]) ?\d+)*)")
_CLOCK = re.compile(r"(?<![\d:])([01]?\d|2[0-4]):([0-5]\d)(?::([0-5]\d))?(?![\d:])")


def folded(text: str) -> str:
    """The text without what is style; texts that say the same become equal.

    * Spaces, case, full width (NFKC), commas in numbers; hyphens in codes of seven digits and more.
    * 만 억 조, and 천 and 백 behind digits, are multiplied out: ``1.5만`` is 15000.
    * 원 and ₩ are left out; $ € £ are words, ¥ is 엔 and 위안.
    * Unit words behind digits are symbols; ``영하 5도`` is ``-5°``.
    * ``3:30``, ``3시 반`` and ``3시 30분`` are one, as are ``2:00:05`` and ``2시 5초``, ``2024-03-05`` and
      ``2024년 3월 5일``, ``6:4`` and ``6 대 4``, ``1 3/4`` and ``1과 4분의 3``, √ and 루트.
    * One to ten in native words before a counter are digits (두 사람), for both are usual. Hours are not.

    >>> folded("₩15,000") == folded("1만 5천 원") == folded("15000원")
    True
    >>> folded("오전 2:30") == folded("오전 2시 반"), folded("오전 2:30") == folded("오전 두 시 반")
    (True, False)
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("₩", "")
    text = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    text = re.sub(r"(?<=\d) (?=√?\d+/)", "과", re.sub("루트 ?", "√", text))
    text = _FEW.sub(lambda found: str(_NATIVE[found[1]]), text)
    # not before other digits: 만 19세 is an age
    text = re.sub(r"(?<!\S)([만억조]) ?(?=원|달러|엔|유로|위안|\d+[천백])", r"1\1", text)
    text = _SIGNED.sub(lambda found: found[2] + _CURRENCIES[found[1]], text)
    text = re.sub(r"(?<=\d) (?=\d)", "-", text)  # two numbers are not one
    text = _times("".join(text.split()))
    text = _CHAIN.sub(lambda found: _multiplied(found[0]), text)
    text = re.sub(r"(?<=\d)원", "", text)
    text = re.sub(r"(?<=\d)와(?=√?[\d.]+/)", "과", _FRACTION.sub(r"\2/\1", text))
    text = _UNIT.sub(lambda found: _UNIT_OF[found[0]], text)
    text = re.sub(r"(?:마이너스|영하)(?=[\d√])", "-", text)
    return re.sub(r"\d+(?:-\d+)+번?", _code, text)


def _times(text: str) -> str:
    """Dates and times in words, without zero minutes and leading zeros."""
    text = re.sub(r"(?<!\d)(\d{4})-(\d\d)-(\d\d)(?!\d)", r"\1년\2월\3일", text)
    text = _CLOCK.sub(lambda found: f"{found[1]}시{found[2]}분" + (f"{found[3]}초" if found[3] else ""), text)
    text = re.sub(r"(?<=\d):(?=\d)", "대", text)
    text = re.sub(r"(?<=\d시)반", "30분", text)
    text = re.sub(r"(?<=\d시)00?분", "", text)
    return re.sub(r"(?<!\d)0(?=\d[시분초월일])", "", text)


def _multiplied(chain: str) -> str:
    """The value of digits with units, such as ``1억5천만`` or ``3천``."""
    total = section = Decimal(0)
    for count, small, large in _PART.findall(chain):
        if count or small:
            section += Decimal(count or 1) * _SMALL.get(small, 1)
        if large:
            total += (section or 1) * _LARGE[large]
            section = Decimal(0)
    value = total + section
    return str(int(value)) if value == int(value) else str(value)


def _code(found: re.Match[str]) -> str:
    digits = re.sub(r"\D", "", found[0])
    return digits if len(digits) >= 7 else found[0]
