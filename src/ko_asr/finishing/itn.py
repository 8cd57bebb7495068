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
from ko_asr.finishing.forms import FORMS, Form, New, Style
from ko_asr.finishing.rule_book import alternatives, holds, resolved_style, rule_book

_WORD = re.compile(r"(?<![^ ])[^ ]").finditer
_LONGEST_BEGINNING = 4  # characters that tell which rules may begin
_LONGEST = 160  # characters of a match: what runs on is no number, and would be read from every start
_VIEW = 2 * _LONGEST  # what a rule sees from its start on


_Call = Callable[[re.Match[str], Style], list[Edit] | None]


class _Table(NamedTuple):
    words: Mapping[str, str]
    active: bool


class _Rule:
    """A compiled rule."""

    def __init__(self, data: Mapping[str, Any], book: Mapping[str, Any], style: Style) -> None:
        self.name, self.needs = data["name"], tuple(data.get("needs", ()))
        self._style = style
        self._groups: list[tuple[str, Form | _Table]] = []
        self.joins = data.get("joins", False)
        self.letters = frozenset(data.get("letters", ""))
        self._attach, self._literal = data.get("attach", True), data.get("write", {})
        self._call: _Call | None = getattr(itn_calls, data["call"]) if "call" in data else None
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
        """Write a match; None declines it. KeyError for what is no number, such as 삼십만 삼십만."""
        return self._written(match) if self._call is None else self._call(match, self._style)

    def _written(self, match: re.Match[str]) -> list[Edit] | None:
        edits = [Edit(*match.span(group), new) for group, new in self._literal.items()]
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
            edits += _number_edits(match, start, end, written, self._attach)
        return sorted(edits)

    def end(self, match: re.Match[str], edits: list[Edit]) -> int:
        """Where the search goes on: a function may have written less than its pattern has found."""
        return match.end() if self._call is None else edits[-1].end


def _number_edits(match: re.Match[str], start: int, end: int, written: New, attach: bool) -> Iterator[Edit]:
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
    if (written if isinstance(written, str) else text[:end])[-1] in numbers.LARGE:
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
        self._always = sum(1 << number for number, (rule, _) in enumerate(self._ranked) if not rule.letters)

    def __call__(self, draft: Draft) -> None:
        """Rewrite the numbers of ``draft``."""
        draft.replace(self.edits(draft.text, draft.is_protected))

    def edits(self, text: str, stays: Callable[[Edit], bool] = lambda edit: False) -> list[Edit]:
        """What is to be rewritten in ``text``; of a match of which a part ``stays``, nothing is."""
        found: list[Edit] = []
        done, bits = 0, self._always
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
                if not any(map(stays, edits)):
                    if at > start and not joins:
                        found.append(Edit(at, at, " "))
                    found += edits
                done = at = end
                joins = rule.joins
                if not edits or at >= len(text) or text[at] == " " or text.startswith("이 ", at):
                    break
        return found

    def _at(
        self, text: str, at: int, anywhere: tuple[_Rule, ...], bits: int
    ) -> tuple[_Rule, list[Edit], int] | None:
        """The rule that writes what begins here, its edits and its end; none for what is no number at all."""
        nonsense: tuple[_Rule, list[Edit], int] | None = None
        rules = self._rules_at(text[at : at + _LONGEST_BEGINNING], bits)
        for rule in (*anywhere, *rules) if anywhere else rules:
            match = rule.match(text, at, at + _VIEW)
            if match is None or not at < match.end() <= at + _LONGEST:
                continue
            try:
                edits = rule.edits(match)
            except KeyError:
                nonsense = nonsense or (rule, [], match.end())
                continue
            if edits is not None:
                return rule, edits, rule.end(match, edits)
        return nonsense

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
    return not rule.needs or any(map(text.__contains__, rule.needs))
