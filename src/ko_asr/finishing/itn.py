"""Inverse text normalisation: spoken numbers, units, codes and letters as they are written.

The rules and their cases are data (``itn.yaml``); this module applies them. A rule is tried only where a word
begins that can begin a number, so a text without numbers costs one search.
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ko_asr.errors import UserError
from ko_asr.finishing import itn_calls, numbers
from ko_asr.finishing.draft import Draft, Edit
from ko_asr.finishing.rule_book import alternatives, holds, resolved_style, rule_book

Style = Mapping[str, str]
_ALL = (
    "영공일이삼사오육칠팔구십백천만한두세네여아열스서마쉰예에비씨시디지제케엘엠오피큐알유브더엑와티앨골앳컴넷"
)
_WORD = re.compile(r"(?<![^ ])[^ ]").finditer
_LONGEST_BEGINNING = 4  # characters that tell which rules may begin
_LAST_WORD = 10  # native counts up to it stay words
Write = Callable[
    [str, Style], str | list[tuple[int, int, str]] | None
]  # a found number; None declines the match


class Form(NamedTuple):
    """A kind of number: the pattern that finds it and the function that writes it."""

    pattern: str
    write: Write


def _plain(text: str, style: Style) -> str | None:
    return str(numbers.value(text))


def _amount(text: str, style: Style) -> str | list[tuple[int, int, str]] | None:
    compact = text.replace(" ", "")
    if compact[-1] in numbers.LARGE and style["large"] == "units":
        return _by_unit(text, style)
    return _with_commas(numbers.value(text), style)


def _with_commas(number: Any, style: Style) -> str:
    return f"{number:,}" if style["commas"] == "counts" else str(number)


def _by_unit(text: str, style: Style) -> list[tuple[int, int, str]] | None:
    """Edits of a number that ends in 만, 억, 조 or 경: what counts each of these, and a space behind it."""
    edits: list[tuple[int, int, str]] = []
    at = 0
    for match in re.finditer("[만억조경]", text):
        part = text[at : match.start()]
        count = part.strip()
        if not count:
            return None if at == 0 else [*edits]
        if at:
            lead = len(part) - len(part.lstrip())
            if not lead:
                edits.append((at, at, " "))
            at += lead
        edits.append((at, match.start(), _with_commas(numbers.value(count), style)))
        at = match.end()
    return edits


def _number(text: str, style: Style) -> str | list[tuple[int, int, str]] | None:
    if "점" not in text:
        return _amount(text, style)
    unit = text[-1] if text[-1] in numbers.LARGE else ""
    return _with_commas(numbers.value(text.removesuffix(unit)), style) + unit


def _year(text: str, style: Style) -> str | None:
    if _is_read(text):
        return None if _is_vague(text) else numbers.digits(text)
    return str(numbers.value(text))


def _is_vague(text: str) -> bool:
    """True for 오륙, five or six."""
    found = numbers.digits(text)
    return len(found) == 2 and int(found[1]) == int(found[0]) + 1 and found[0] != "0"


def _is_read(text: str) -> bool:
    compact = text.replace(" ", "")
    return len(compact) > 1 and all(one in "영공일이삼사오육륙칠팔구" for one in compact)


def _below(limit: int, form: Write = _plain) -> Write:
    def write(text: str, style: Style) -> str | list[tuple[int, int, str]] | None:
        return form(text, style) if 0 < numbers.value(text) < limit else None

    return write


def _minute(text: str, style: Style) -> str | None:
    if _is_read(text):
        found = numbers.digits(text)
        return found if len(found) == 2 and found < "60" else None
    return str(numbers.value(text))


def _native(text: str, style: Style) -> str | None:
    return None if style["native"] == "none" else str(numbers.value(text))


def _many(text: str, style: Style) -> str | list[tuple[int, int, str]] | None:
    """A number of at least two syllables: one alone may be another word."""
    return _number(text, style) if len(text.replace(" ", "")) > 1 else None


def _hour(text: str, style: Style) -> str | None:
    """An hour of the clock: native to twelve, Sino-Korean as soldiers and railways count."""
    number = numbers.value(text)
    native = text[:2] in numbers.NATIVE or text[:1] in numbers.NATIVE
    return str(number) if 0 < number < 25 and (native or len(text) > 1) else None


def _hours(text: str, style: Style) -> str | None:
    native = text[:2] in numbers.NATIVE or text[:1] in numbers.NATIVE
    return str(numbers.value(text)) if native or len(text.replace(" ", "")) > 1 else None


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


def _whole(text: str, style: Style) -> str | list[tuple[int, int, str]] | None:
    if _is_read(text):
        return numbers.digits(text)
    counted = re.search("[십백천]|[억만].", text)
    return _amount(text, style) if counted else None


def _bare(text: str, style: Style) -> str | list[tuple[int, int, str]] | None:
    """A number that nothing counts: one that is no other word."""
    compact = text.replace(" ", "")
    tens = re.search(
        "[일이삼사오육칠팔구][십백]|[십백천만억조][일이삼사오육칠팔구]|[일이삼사오육칠팔구십백천][억조]|십만",
        compact,
    )
    return _amount(text, style) if tens and (len(compact) > 2 or "십" in compact) else None


_SINO = numbers.SINO
_NUMBER = f"(?:{numbers.DECIMAL}|{_SINO})"
FORMS: dict[str, Form] = {
    "amount": Form(_SINO, _amount),
    "plain": Form(_SINO, _plain),
    "number": Form(_NUMBER, _number),
    "decimal": Form(numbers.DECIMAL, _number),
    "year": Form(f"(?:{numbers.READ}|{_SINO})", _year),
    "month": Form(_SINO, _below(13)),
    "odd_month": Form("[유시]", lambda text, style: "6" if text == "유" else "10"),
    "day": Form(_SINO, _below(1000)),
    "hour": Form(f"(?:{numbers.ELEVEN_UP}|{numbers.TO_TEN}|{_SINO})", _hour),
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


class _Table(NamedTuple):
    words: Mapping[str, str]
    active: bool


class _Rule:
    """A compiled rule."""

    def __init__(self, data: Mapping[str, Any], book: Mapping[str, Any], style: Style) -> None:
        self.name, self.needs = data["name"], tuple(data.get("needs", ()))
        self._style, self._groups = style, []  # type: ignore[var-annotated]
        self.joins = data.get("joins", False)
        self.letters = frozenset(data.get("letters", _ALL))
        self._attach, self._literal = data.get("attach", True), data.get("write", {})
        self._call = getattr(itn_calls, data["call"]) if "call" in data else None
        try:
            self.match = re.compile(self._expanded(data["pattern"], book)).match
        except (re.error, KeyError) as error:
            raise UserError(f"rule {self.name!r}: its pattern cannot be read: {error}") from error

    def _expanded(self, pattern: str, book: Mapping[str, Any]) -> str:
        pattern = re.sub(r"\{([a-z]\w*)\}", lambda found: book["pieces"][found[1]], pattern)
        return re.sub(r"(?<!P)<(%?)(\w+)>", lambda found: self._group(found[1], found[2], book), pattern)

    def _group(self, table: str, name: str, book: Mapping[str, Any]) -> str:
        group = f"{name}_{len(self._groups)}"
        if table:
            words = book["tables"][name]["words"]
            self._groups.append((group, _Table(words, holds(book["tables"][name].get("when"), self._style))))
            return f"(?P<{group}>{alternatives(words)})"
        self._groups.append((group, FORMS[name]))
        return f"(?P<{group}>{FORMS[name].pattern})"

    def edits(self, match: re.Match[str]) -> list[Edit] | None:
        """Write a match; None declines it."""
        if self._call is not None:
            made: list[Edit] | None = self._call(match, self._style)
            return made
        edits = [Edit(*match.span(group), new) for group, new in self._literal.items()]
        for group, kind in self._groups:
            start, end = match.span(group)
            if start < 0:
                continue
            if isinstance(kind, _Table):
                if kind.active:
                    edits.append(Edit(start, end, kind.words[match[group]]))
                continue
            try:
                written = kind.write(match[group], self._style)
            except KeyError:  # 만 is no part of 이만 억
                return None
            if written is None:
                return None
            edits += _number_edits(match, start, end, written, self._attach)
        return sorted(edits)

    def end(self, match: re.Match[str], edits: list[Edit]) -> int:
        """Where the search goes on: a function may have written less than its pattern has found."""
        return match.end() if self._call is None else edits[-1].end


def _number_edits(
    match: re.Match[str], start: int, end: int, written: str | list[tuple[int, int, str]], attach: bool
) -> Iterator[Edit]:
    """The edits of one number and of the space behind it."""
    if isinstance(written, str):
        yield Edit(start, end, written)
    else:
        for first, last, new in written:
            yield Edit(start + first, start + last, new)
    text = match.string
    spaced = text[end : end + 1] == " "
    if end >= match.end() and not spaced:
        return
    if not isinstance(written, str) or written[-1] in numbers.LARGE:
        if not spaced and end < match.end():
            yield Edit(end, end, " ")
    elif spaced and attach and end < match.end():
        yield Edit(end, end + 1, "")


class Itn:
    """Compiled rules of one style: a stage of `ko_asr.finishing.finisher.Finisher`."""

    def __init__(self, style: Style | None = None) -> None:
        """UserError for an option or value that does not exist."""
        book = rule_book()
        chosen = resolved_style(style or {})
        self._kinds = {name: re.compile(pattern).match for name, pattern in book["kinds"].items()}
        self._keep = re.compile("|".join(book["keep"])).match
        self._vague = tuple(f"{word} " for word in book["vague"])
        rules = [data for data in book["rules"] if holds(data.get("when"), chosen)]
        self._ranked = [(_Rule(data, book, chosen), frozenset(data["starts"].split())) for data in rules]
        self._anywhere = tuple(rule for rule, starts in self._ranked if "any" in starts)
        self._start = re.compile(f"(?<![^ ])(?:{'|'.join(book['kinds'].values())})").finditer
        self._rules_at = functools.lru_cache(1 << 14)(self._beginning)
        self._bits = self._bits_of_letters()

    def __call__(self, draft: Draft) -> None:
        """Rewrite the numbers of ``draft``."""
        draft.replace(self.edits(draft.text))

    def edits(self, text: str) -> list[Edit]:
        """What is to be rewritten in ``text``."""
        found: list[Edit] = []
        done, bits = 0, 0
        anywhere = tuple(rule for rule in self._anywhere if _needed(rule, text))
        starts = [match.start() for match in (_WORD if anywhere else self._start)(text)]
        if not starts:
            return found
        for letter in text:
            bits |= self._bits.get(letter, 0)
        for start in starts:
            if start < done or self._keep(text, start) or text.endswith(self._vague, 0, start):
                continue
            at, joins = start, True
            while (made := self._at(text, at, anywhere, bits)) is not None:
                rule, edits, end = made
                if at > start and not joins:
                    found.append(Edit(at, at, " "))
                found += edits
                done = at = end
                joins = rule.joins
                if at >= len(text) or text[at] == " ":
                    break
        return found

    def _at(
        self, text: str, at: int, anywhere: tuple[_Rule, ...], bits: int
    ) -> tuple[_Rule, list[Edit], int] | None:
        rules = self._rules_at(text[at : at + _LONGEST_BEGINNING], bits)
        for rule in (*anywhere, *rules) if anywhere else rules:
            match = rule.match(text, at)
            if match is not None and match.end() > at and (edits := rule.edits(match)) is not None:
                return rule, edits, rule.end(match, edits)
        return None

    def _bits_of_letters(self) -> dict[str, int]:
        """For each character the rules that can match where it is in the text, one bit a rule."""
        bits: dict[str, int] = {}
        for number, (rule, _) in enumerate(self._ranked):
            for letter in rule.letters:
                bits[letter] = bits.get(letter, 0) | 1 << number
        return bits

    def _beginning(self, beginning: str, bits: int) -> tuple[_Rule, ...]:
        """The rules that may begin so in a text that has the letters of ``bits``."""
        kinds = {name for name, match in self._kinds.items() if match(beginning)}
        ranked = enumerate(self._ranked)
        return tuple(rule for number, (rule, starts) in ranked if starts & kinds and bits >> number & 1)


def _needed(rule: _Rule, text: str) -> bool:
    return not rule.needs or any(one in text for one in rule.needs)
