"""The reverse of finishing: written Korean as it is said, for language-model text and synthetic speech.

>>> spoken("2024년 3월 5일 3시 30분에 15,000원, KBS에서")
'이천이십사년 삼월 오일 세 시 삼십 분에 만 오천 원, 케이비에스에서'

The rules and their cases are data (``spoken.yaml``); this module applies them. Units, abbreviations and names
of the web are those of ``itn.yaml``, backwards. Text without digits, Latin letters and signs is not changed.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ko_asr.errors import UserError
from ko_asr.finishing import number_words, spoken_calls
from ko_asr.finishing.data import read_yaml
from ko_asr.finishing.draft import Draft, Edit
from ko_asr.finishing.number_words import AMOUNT, WHOLE
from ko_asr.finishing.rule_book import alternatives, rule_book

_LONGEST = (
    256  # characters of a match: what runs on for longer has no name, and would be read from every start
)
_VIEW = 2 * _LONGEST  # what a rule sees from its start on
RULES = Path(__file__).with_name("spoken.yaml")

_Read = Callable[[str], str | None]


def _sino(text: str) -> str:
    return number_words.sino(number_words.whole(text))


def _counted(limit: int) -> tuple[str, _Read]:
    """Native words up to ``limit``; numbers with decimals or large units are Sino-Korean."""

    def say(text: str) -> str | None:
        if text.replace(",", "").isdigit() and text[0] != "0":
            return number_words.counted(number_words.whole(text), limit)
        return number_words.amount(text)

    return AMOUNT, say


def _month(text: str) -> str:
    return number_words.month(int(text))


def _hour(text: str) -> str | None:
    hour = int(text)
    return None if hour > 24 else number_words.native(hour) if 0 < hour < 13 else number_words.sino(hour)


def _ordinal(text: str) -> str | None:
    return "첫" if text == "1" else number_words.counted(number_words.whole(text), 99)


# How a number is said, by the name that rules give it: the pattern that finds it, and its words.
FORMS: dict[str, tuple[str, _Read]] = {
    "number": (AMOUNT, number_words.amount),
    "decimal": (rf"{WHOLE}(?:\.\d+)?", number_words.decimal),
    "sino": (WHOLE, _sino),
    "native": _counted(99),
    "native20": _counted(20),
    "native10": _counted(10),
    "ordinal": (WHOLE, _ordinal),
    "year": (r"\d{1,4}", number_words.decimal),
    "month": (r"(?:0?[1-9]|1[0-2])(?!\d)", _month),
    "day": (r"(?:0?[1-9]|[12]\d|3[01])(?!\d)", _sino),
    "hour": (r"\d\d?(?!\d)", _hour),
    "minute": (r"[0-5]?\d(?!\d)", _sino),
    "plain": (r"\d+", number_words.decimal),
    "read": (r"\d+", number_words.read),
    "parts": (r"\d+(?:\.\d+)+", number_words.parts),
}
_KINDS = ("digit", "letter", "sign")
_GROUP = re.compile(r"(?<!P)<(?P<table>%?)(?P<kind>\w+)(?::(?P<name>\w+))?>")


def tables(book: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Written to spoken: the book's own tables, then ``itn.yaml``'s backwards, the first word of each."""
    forwards = rule_book()
    found: dict[str, dict[str, str]] = {
        name: dict(words) if isinstance(words, dict) else dict.fromkeys(words, "")
        for name, words in book["tables"].items()
    }
    units = forwards["tables"]["unit"]["words"]
    for name, words in {
        "unit": {said: units[said] for said in sorted(units, key=len, reverse=True)},  # 메가바이트, not 메가
        "percent": forwards["tables"]["percent"]["words"],
        "abbreviation": forwards["abbreviations"],
        "web": forwards["web_names"],
    }.items():
        table = found.setdefault(name, {})
        for said, written in words.items():
            table.setdefault(written, said)
    return found


class _Group(NamedTuple):
    """A part of a pattern that is said otherwise."""

    name: str
    say: _Read
    number: bool


class _Rule:
    """A compiled rule."""

    def __init__(
        self, data: Mapping[str, Any], pieces: Mapping[str, str], words: spoken_calls.Tables
    ) -> None:
        self.needs = tuple(data.get("needs", ()))
        self.partial, self._joined, self._say = (data.get(key) for key in ("partial", "joined", "say"))
        self._call = functools.partial(getattr(spoken_calls, data["call"]), words) if "call" in data else None
        self._groups: list[_Group] = []
        pattern = re.sub(r"\{([a-z]\w*)\}", lambda found: pieces[found[1]], data["pattern"])
        pattern = _GROUP.sub(lambda found: self._group(found, words), pattern)
        self.match = re.compile(pattern).match
        if self._say is not None:
            self._say.format(**{group.name: "" for group in self._groups})

    def _group(self, found: re.Match[str], words: spoken_calls.Tables) -> str:
        kind, name = found["kind"], found["name"] or f"{found['kind']}_{len(self._groups)}"
        say: _Read
        if found["table"]:
            pattern, say = alternatives(words[kind]), words[kind].__getitem__
        else:
            pattern, say = FORMS[kind]
        self._groups.append(_Group(name, say, not found["table"]))
        return f"(?P<{name}>{pattern})"

    def edits(self, match: re.Match[str]) -> list[Edit] | None:
        """Say a match; None declines it."""
        if self._call is not None:
            made: list[Edit] | None = self._call(match)
            return made
        said: dict[str, str] = {}
        for group in self._groups:
            if match[group.name] is not None:
                words = group.say(match[group.name])
                if words is None:
                    return None
                said[group.name] = words
        if self._say is not None:
            return [Edit(match.start(), match.end(), self._say.format(**said))]
        return [
            Edit(*match.span(group.name), said[group.name] + self._space(match, group))
            for group in self._groups
            if group.name in said
        ]

    def _space(self, match: re.Match[str], group: _Group) -> str:
        """A space between a number and what counts it."""
        end = match.end(group.name)
        apart = group.number and not self._joined and end < match.end() and match.string[end] != " "
        return " " if apart else ""


class Speech:
    """Compiled rules: a stage, which rewrites a `Draft` as it is said, so that each word knows its origin."""

    def __init__(self, path: Path = RULES) -> None:
        """UserError, which names file and line, for rules that cannot be used."""
        book = read_yaml(path)
        try:
            words, pieces, rules = tables(book), book["pieces"], list(book["rules"])
            self._begin = re.compile(book["begin"]).search
        except (re.error, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: begin, pieces, tables or rules cannot be used ({error})") from error
        self._rules: dict[str, list[_Rule]] = {kind: [] for kind in _KINDS}
        for number, data in enumerate(rules):
            try:
                rule = _Rule(data, pieces, words)
                for kind in data["starts"].split():
                    self._rules[kind].append(rule)
            except (re.error, LookupError, AttributeError, TypeError, ValueError) as error:
                raise UserError(f"{_place(path, number)}: this rule cannot be used ({error})") from error
        needs = (need for rules in self._rules.values() for rule in rules for need in rule.needs)
        self._needs = tuple(dict.fromkeys(needs))
        self._chosen = functools.lru_cache(1024)(self._choose)

    def __call__(self, draft: Draft) -> None:
        """Rewrite ``draft`` as it is said."""
        draft.replace(self.edits(draft.text))

    def edits(self, text: str) -> list[Edit]:
        """What is to be said otherwise than it is written, in order."""
        found: list[Edit] = []
        done = 0
        begin = self._begin(text)
        if begin is None:
            return found
        rules = self._chosen(tuple(need for need in self._needs if need in text))
        while begin is not None:
            start = begin.start()
            made = _at(text, start, rules)
            if made is None:
                end = start + len(begin[0])
                while text[end - 1].isdigit() and text[end : end + 1].isdigit():
                    end += 1  # digits that no rule takes are none further on either
            else:
                edits, end = made
                before = found[-1].new if found and found[-1].end == start else text[start - 1 : start]
                if before.endswith(" "):
                    edits[0] = edits[0]._replace(new=edits[0].new.lstrip(" "))
                elif not edits[0].new.startswith(" ") and _runs_on(text, start, end, done):
                    found.append(Edit(start, start, " "))
                found += edits
                done = end
            begin = self._begin(text, end)
        return found

    def _choose(self, present: tuple[str, ...]) -> dict[str, list[_Rule]]:
        """The rules by how they begin, without those that need what is not ``present`` in a text."""
        return {
            kind: [rule for rule in rules if not rule.needs or any(need in present for need in rule.needs)]
            for kind, rules in self._rules.items()
        }


def _at(text: str, start: int, rules: Mapping[str, list[_Rule]]) -> tuple[list[Edit], int] | None:
    first = text[start]
    kind = "digit" if first.isdigit() else "letter" if first.isascii() and first.isalpha() else "sign"
    for rule in rules[kind]:
        match = rule.match(text, start, start + _VIEW)
        if match is None or not start < match.end() <= start + _LONGEST:
            continue
        if (edits := rule.edits(match)) is not None:
            return edits, edits[-1].end if rule.partial else match.end()
    return None


def _runs_on(text: str, start: int, end: int, done: int) -> bool:
    """Whether what begins at ``start`` needs a space: 3월5일, 오전10시 and S24 do, 종로3가 does not."""
    if start == 0 or not text[start].isalnum() or not text[start - 1].isalnum():
        return False
    if done == start:
        return True
    return text[start].isdigit() and not text[end - 1].isdigit()


def _place(path: Path, number: int) -> str:
    """The file, and the line in which its rule of this number begins."""
    lines = path.read_text("utf-8").partition("\nrules:")[0].count("\n") + 1
    text = path.read_text("utf-8").splitlines()
    begins = [at + 1 for at in range(lines, len(text)) if re.match(r" *- *\w+:", text[at])]
    return f"{path}, line {begins[number]}" if number < len(begins) else str(path)


@functools.cache
def _default() -> Speech:
    return Speech()


def spoken(text: str) -> str:
    """Return ``text`` as it is said: numbers, units, signs, codes, abbreviations and addresses in Hangul.

    Particles stay as they are written, and Latin words whose reading is not known stay Latin.
    """
    edits = _default().edits(text)
    if not edits:
        return text
    parts: list[str] = []
    at = 0
    for start, end, new in edits:
        parts += text[at:start], new
        at = end
    return "".join([*parts, text[at:]])
