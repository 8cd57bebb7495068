"""The kinds of numbers that rules name in angle brackets: how each is found and how it is written."""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import NamedTuple

from ko_asr.finishing import itn_calls, numbers

Style = Mapping[str, str]
New = str | list[tuple[int, int, str]]  # a number anew, or what becomes of parts of it
Write = Callable[[str, Style], New | None]  # None declines the match
_LAST_WORD = 10  # native counts up to it stay words


class Form(NamedTuple):
    """A kind of number: the pattern that finds it and the function that writes it."""

    pattern: str
    write: Write


def _plain(text: str, style: Style) -> str | None:
    return str(numbers.value(text))


def _amount(text: str, style: Style) -> New | None:
    compact = text.replace(" ", "")
    if style["large"] == "units":
        if compact[-1] in numbers.LARGE:
            return _by_unit(text, style)
        if "만" not in compact and (large := re.match(".*[억조경]", text)):  # 오억 삼천 may mean 5억 3천만
            rest = text[large.end() :]
            at = large.end() + len(rest) - len(rest.lstrip())
            gap = [] if at > large.end() else [(at, at, " ")]
            tail = (at, len(text), _with_commas(numbers.value(rest), style))
            return [*(_by_unit(large[0], style) or []), *gap, tail]
    return _with_commas(numbers.value(text), style)


def _with_commas(number: int | Decimal, style: Style) -> str:
    return f"{number:,}" if style["commas"] == "counts" else str(number)


def _by_unit(text: str, style: Style) -> list[tuple[int, int, str]] | None:
    """Edits of a number that ends in 만, 억, 조 or 경: what counts each of these, and a space behind it."""
    edits: list[tuple[int, int, str]] = []
    at = 0
    for match in re.finditer("[만억조경]", text):
        part = text[at : match.start()]
        count = part.strip()
        if not count:
            return edits or None
        if at:
            lead = len(part) - len(part.lstrip())
            if not lead:
                edits.append((at, at, " "))
            at += lead
        edits.append((at, match.start(), _with_commas(numbers.value(count), style)))
        at = match.end()
    return edits


def _number(text: str, style: Style) -> New | None:
    if "점" not in text:
        return _amount(text, style)
    unit = text[-1] if text[-1] in numbers.LARGE else ""
    return _with_commas(numbers.value(text.removesuffix(unit)), style) + unit


def _year(text: str, style: Style) -> New | None:
    if _is_read(text):
        return None if _is_vague(text) else numbers.digits(text)
    return _amount(text, style) if text[-1] in numbers.LARGE else str(numbers.value(text))


def _is_vague(text: str) -> bool:
    """True for 오륙, five or six."""
    found = numbers.digits(text)
    return len(found) == 2 and int(found[1]) == int(found[0]) + 1 and found[0] != "0"


def _is_read(text: str) -> bool:
    compact = text.replace(" ", "")
    return len(compact) > 1 and all(one in "영공일이삼사오육륙칠팔구" for one in compact)


def _below(limit: int, form: Write = _plain) -> Write:
    def write(text: str, style: Style) -> New | None:
        return form(text, style) if 0 < numbers.value(text) < limit else None

    return write


def _minute(text: str, style: Style) -> str | None:
    if _is_read(text):
        found = numbers.digits(text)
        return found if len(found) == 2 and found < "60" else None
    return str(numbers.value(text))


def _two(text: str, style: Style) -> str | None:
    """Two digits."""
    number = numbers.value(text)
    return f"{number:02}" if 0 <= number < 60 else None


def _native(text: str, style: Style) -> str | None:
    return None if style["native"] == "none" else str(numbers.value(text))


def _many(text: str, style: Style) -> New | None:
    """A number of at least two syllables: one alone may be another word."""
    return _number(text, style) if len(text.replace(" ", "")) > 1 else None


def _hours(text: str, style: Style) -> str | None:
    """A native number, or one of at least two syllables."""
    native = text[:2] in numbers.NATIVE or text[:1] in numbers.NATIVE
    return str(numbers.value(text)) if native or len(text.replace(" ", "")) > 1 else None


def _hour(text: str, style: Style) -> str | None:
    """An hour of the clock: native to twelve, Sino-Korean as soldiers and railways count."""
    if _is_read(text):
        return numbers.digits(text)
    return _hours(text, style) if 0 < numbers.value(text) < 25 else None


def _room(text: str, style: Style) -> str | None:
    compact = text.replace(" ", "")
    if _is_read(text):
        evenly = len(text) in (len(compact), 2 * len(compact) - 1)
        return numbers.digits(text) if evenly and len(compact) > 2 else None
    return str(numbers.value(text)) if len(compact) > 1 else None


def _native_count(text: str, style: Style) -> str | None:
    number = numbers.value(text)
    if style["native"] == "none" or (number <= _LAST_WORD and style["native"] != "all"):
        return None
    return str(number)


def _whole(text: str, style: Style) -> New | None:
    if _is_read(text):
        return numbers.digits(text)
    counted = re.search("[십백천]|[억만].", text)
    return _amount(text, style) if counted else None


def _bare(text: str, style: Style) -> New | None:
    """A number that nothing counts: one that is no other word."""
    compact = text.replace(" ", "")
    tens = re.search(
        "[일이삼사오육칠팔구][십백]|[십백천만억조][일이삼사오육칠팔구]|[일이삼사오육칠팔구십백천][억조]|십만",
        compact,
    )
    word = len(compact) == 2 and compact[-1] == "조" and " " not in text  # 백조, 육조
    return _amount(text, style) if tens and not word and (len(compact) > 2 or "십" in compact) else None


_SINO = numbers.SINO
_NUMBER = f"(?:{numbers.DECIMAL}|{_SINO})"
FORMS: dict[str, Form] = {
    "amount": Form(_SINO, _amount),
    "plain": Form(_SINO, _plain),
    "number": Form(_NUMBER, _number),
    "decimal": Form(numbers.DECIMAL, _number),
    "year": Form(f"(?:{numbers.READ}|{_SINO})", _year),
    "month": Form(_SINO, _below(13)),
    "odd_month": Form("[유시]", lambda text, style: {"유": "6", "시": "10"}[text]),
    "day": Form(_SINO, _below(1000)),
    "hour": Form(f"(?:{numbers.ELEVEN_UP}|{numbers.TO_TEN}|[공영][영공일이삼사오육칠팔구]|{_SINO})", _hour),
    "two": Form(f"(?:{numbers.READ}|{_SINO})", _two),
    "octet": Form(f"(?:{numbers.SMALL}|[영공])", _plain),
    "hours": Form(f"(?:{numbers.ELEVEN_UP}|{numbers.TO_TEN}|{_SINO})", _hours),
    "minute": Form(f"(?:{numbers.READ}|{_SINO})", _minute),
    "eleven": Form(numbers.ELEVEN_UP, _native),
    "native_count": Form(f"(?:{numbers.ELEVEN_UP}|{numbers.TO_TEN})", _native_count),
    "many": Form(_NUMBER, _many),
    "whole": Form(f"(?:{numbers.DIGIT}{{3,}}|{_SINO})", _whole),
    "small": Form(numbers.SMALL, _plain),
    "one": Form("[일이삼사오육칠팔구]", _plain),
    "age": Form(_SINO, _below(130)),
    "choice": Form(f"(?:[영공]|{_SINO})", _plain),
    "side": Form(f"(?:{_NUMBER}|[영공])", _number),
    "room": Form(f"(?:{numbers.READ}|{_SINO})", _room),
    "plate": Form(_SINO, _plain),
    "code": Form(f"{numbers.DIGIT}(?: ?{numbers.DIGIT}){{3}}", lambda text, style: numbers.digits(text)),
    "bare": Form(_SINO, _bare),
    "groups": Form(itn_calls.GROUPS, lambda text, style: None),
    "letters": Form(itn_calls.LETTERS, lambda text, style: None),
}  # fmt: skip
