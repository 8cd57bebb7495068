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
    return _with_commas(numbers.value(text), style) if "점" in text else _amount(text, style)


def _year(text: str, style: Style) -> str | None:
    return numbers.digits(text) if _is_read(text) else str(numbers.value(text))


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


def _count(text: str, style: Style) -> str | list[tuple[int, int, str]] | None:
    if (re.match("[하한두세네다여일아열스서마쉰예]", text) and text[:1] not in "일이") or text[:2] in (
        "일곱",
        "일흔",
    ):
        small = numbers.value(text) <= 10
        return (
            None if style["native"] == "none" or (small and style["native"] != "all") else _plain(text, style)
        )
    return _amount(text, style) if text[-1:] not in "한두세네" else _native(text, style)


def _bare(text: str, style: Style) -> str | list[tuple[int, int, str]] | None:
    """A number that nothing counts: one that is no other word."""
    compact = text.replace(" ", "")
    tens = re.search("[일이삼사오육칠팔구][십백]|[십백천만억조][일이삼사오육칠팔구]", compact)
    return _amount(text, style) if tens and (len(compact) > 2 or "십" in compact) else None


_SINO = numbers.SINO
FORMS: dict[str, Form] = {
    "amount": Form(_SINO, _amount),
    "plain": Form(_SINO, _plain),
    "number": Form(f"(?:{numbers.DECIMAL}|{_SINO})", _number),
    "decimal": Form(numbers.DECIMAL, _number),
    "year": Form(f"(?:{numbers.READ}|{_SINO})", _year),
    "month": Form(_SINO, _below(13)),
    "odd_month": Form("[유시](?=월)", lambda text, style: "6" if text == "유" else "10"),
    "day": Form(_SINO, _below(32)),
    "hour": Form(f"(?:{numbers.ELEVEN_UP}|{numbers.TO_TEN}|{_SINO})", _below(25)),
    "hours": Form(f"(?:{numbers.ELEVEN_UP}|{numbers.TO_TEN}|{_SINO})", _plain),
    "minute": Form(f"(?:{numbers.READ}|{_SINO})", _minute),
    "eleven": Form(numbers.ELEVEN_UP, _native),
    "count": Form(f"(?:{numbers.ELEVEN_UP}|{numbers.TO_TEN}|{_SINO})", _count),
    "choice": Form(_SINO, _plain),
    "bare": Form(_SINO, _bare),
    "groups": Form(itn_calls.GROUPS, lambda text, style: None),
    "letters": Form(itn_calls.LETTERS, lambda text, style: None),
}  # fmt: skip
_AHEAD = {"month_ahead": f" ?{_SINO} ?월", "day_ahead": f"{_SINO} ?일"}


class _Table(NamedTuple):
    words: Mapping[str, str]
    active: bool


class _Rule:
    """A compiled rule."""

    def __init__(self, data: Mapping[str, Any], book: Mapping[str, Any], style: Style) -> None:
        self.name, self.needs = data["name"], tuple(data.get("needs", ()))
        self._style, self._groups = style, []  # type: ignore[var-annotated]
        self._call = getattr(itn_calls, data["call"]) if "call" in data else None
        try:
            self.match = re.compile(self._expanded(data["pattern"], book)).match
        except (re.error, KeyError) as error:
            raise UserError(f"rule {self.name!r}: its pattern cannot be read: {error}") from error

    def _expanded(self, pattern: str, book: Mapping[str, Any]) -> str:
        pattern = re.sub(r"\{([a-z]\w*)\}", lambda found: book["pieces"][found[1]], pattern)
        return re.sub(r"(?<!P)<(%?)(\w+)>", lambda found: self._group(found[1], found[2], book), pattern)

    def _group(self, table: str, name: str, book: Mapping[str, Any]) -> str:
        if name in _AHEAD:
            return _AHEAD[name]
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
        edits: list[Edit] = []
        for group, kind in self._groups:
            start, end = match.span(group)
            if start < 0:
                continue
            if isinstance(kind, _Table):
                if kind.active:
                    edits.append(Edit(start, end, kind.words[match[group]]))
                continue
            written = kind.write(match[group], self._style)
            if written is None:
                return None
            edits += _number_edits(match, start, end, written)
        return edits


def _number_edits(
    match: re.Match[str], start: int, end: int, written: str | list[tuple[int, int, str]]
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
    if text[end - 1] in numbers.LARGE and not isinstance(written, str):
        if not spaced and end < match.end():
            yield Edit(end, end, " ")
    elif spaced and end < match.end():
        yield Edit(end, end + 1, "")


class Itn:
    """Compiled rules of one style: a stage of `ko_asr.finishing.finisher.Finisher`."""

    def __init__(self, style: Style | None = None) -> None:
        """UserError for an option or value that does not exist."""
        book = rule_book()
        chosen = resolved_style(style or {})
        self._begins = re.compile(
            "|".join(f"(?P<{name}>{pattern})" for name, pattern in book["kinds"].items())
        )
        self._kinds = {name: re.compile(pattern).match for name, pattern in book["kinds"].items()}
        self._keep = re.compile("|".join(book["keep"])).match
        kinds = [*book["kinds"], "any"]
        self._rules: dict[str, list[_Rule]] = {kind: [] for kind in kinds}
        self._ranked: list[tuple[_Rule, frozenset[str]]] = []
        for data in book["rules"]:
            if holds(data.get("when"), chosen):
                self._ranked.append((_Rule(data, book, chosen), frozenset(data["starts"].split())))
        self._start = re.compile(f"(?<![^ ])(?:{'|'.join(book['kinds'].values())})")
        self._by_kinds = functools.lru_cache(None)(self._matching)

    def __call__(self, draft: Draft) -> None:
        """Rewrite the numbers of ``draft``."""
        draft.replace(self.edits(draft.text))

    def edits(self, text: str) -> list[Edit]:
        """What is to be rewritten in ``text``."""
        found: list[Edit] = []
        done = 0
        anywhere = [rule for rule, starts in self._ranked if "any" in starts and _needed(rule, text)]
        starts = (
            self._word_starts(text) if anywhere else (match.start() for match in self._start.finditer(text))
        )
        for start in starts:
            if start < done or self._keep(text, start):
                continue
            at = start
            while (made := self._at(text, at, anywhere)) is not None:
                edits, end = made
                if at > start and text[at - 1] != " ":
                    found.append(Edit(at, at, " "))
                found += edits
                done = at = end
                if at >= len(text) or text[at] == " ":
                    break
        return found

    def _word_starts(self, text: str) -> Iterator[int]:
        return (match.start() for match in re.finditer(r"(?<![^ ])[^ ]", text))

    def _at(self, text: str, at: int, anywhere: list[_Rule]) -> tuple[list[Edit], int] | None:
        kinds = frozenset(name for name, match in self._kinds.items() if match(text, at))
        for rule in [*anywhere, *self._by_kinds(kinds)]:
            match = rule.match(text, at)
            if match is not None and match.end() > at and (edits := rule.edits(match)) is not None:
                return edits, match.end()
        return None

    def _matching(self, kinds: frozenset[str]) -> list[_Rule]:
        return [rule for rule, starts in self._ranked if starts & kinds]


def _needed(rule: _Rule, text: str) -> bool:
    return not rule.needs or any(one in text for one in rule.needs)
