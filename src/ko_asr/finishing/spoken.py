"""The reverse of finishing: written Korean as it is said, for language-model text and synthetic speech.

>>> spoken("2024년 3월 5일 3시 30분에 15,000원, KBS에서")
'이천이십사년 삼월 오일 세 시 삼십 분에 만 오천 원, 케이비에스에서'

The rules and their cases are data (``spoken.yaml``); this module applies them. Units, abbreviations and names of
the web are those of ``itn.yaml``, backwards. Text without digits, Latin letters and signs is not changed.
"""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.finishing import number_words, spoken_calls
from ko_asr.finishing.draft import Draft, Edit
from ko_asr.finishing.number_words import AMOUNT, WHOLE
from ko_asr.finishing.rule_book import alternatives, read_rules, rule_book

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
    "read": (r"\d+", number_words.read),
    "parts": (r"\d+(?:\.\d+)+", number_words.parts),
}
_GROUP = re.compile(r"(?<!P)<(%?)(\w+)(?::(\w+))?>")


def tables(book: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Written to spoken: the book's own tables, then those of ``itn.yaml`` backwards; the first word of each counts."""
    forwards = rule_book()
    found: dict[str, dict[str, str]] = {name: dict(words) for name, words in book["tables"].items()}
    for name, words in {
        "unit": forwards["tables"]["unit"]["words"],
        "percent": forwards["tables"]["percent"]["words"],
        "abbreviation": forwards["abbreviations"],
        "web": forwards["web_names"],
    }.items():
        table = found.setdefault(name, {})
        for said, written in words.items():
            table.setdefault(written, said)
    return found


class _Rule:
    """A compiled rule."""

    def __init__(self, data: Mapping[str, Any], pieces: Mapping[str, str], words: Mapping[str, Any]) -> None:
        self.name, self.needs = data["name"], tuple(data.get("needs", ()))
        self._joined, self._say, self._groups = data.get("joined", False), data.get("say"), []  # type: ignore[var-annotated]
        self._call = functools.partial(getattr(spoken_calls, data["call"]), words) if "call" in data else None
        pattern = re.sub(r"\{([a-z]\w*)\}", lambda found: pieces[found[1]], data["pattern"])
        self.match = re.compile(_GROUP.sub(lambda found: self._group(*found.groups(), words), pattern)).match  # type: ignore[arg-type]

    def _group(self, table: str, kind: str, name: str | None, words: Mapping[str, Mapping[str, str]]) -> str:
        name = name or f"{kind}_{len(self._groups)}"
        pattern, say = (alternatives(words[kind]), words[kind].get) if table else FORMS[kind]
        self._groups.append((name, say, bool(table)))
        return f"(?P<{name}>{pattern})"

    def edits(self, match: re.Match[str]) -> list[Edit] | None:
        """Say a match; None declines it."""
        if self._call is not None:
            made: list[Edit] | None = self._call(match)
            return made
        said = {}
        for name, say, _ in self._groups:
            if match[name] is not None:
                words = say(match[name])
                if words is None:
                    return None
                said[name] = words
        if self._say is not None:
            return [Edit(match.start(), match.end(), self._say.format(**said))]
        return [
            Edit(*match.span(name), said[name] + self._space(match, name, table))
            for name, _, table in self._groups
            if name in said
        ]

    def _space(self, match: re.Match[str], name: str, table: bool) -> str:
        """A space between a number and what counts it."""
        end = match.end(name)
        return " " if not table and not self._joined and end < match.end() and match.string[end] != " " else ""


class Speech:
    """Compiled rules: a stage, which rewrites a `Draft` as it is said and so keeps the origin of every word."""

    def __init__(self, path: Path = RULES) -> None:
        """UserError, which names file and line, for rules that cannot be read."""
        book = read_rules(path)
        try:
            words = tables(book)
            self._begin = re.compile(book["begin"]).search
        except (re.error, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: it lacks begin, tables or pieces of a rule file ({error})") from error
        self._rules: dict[str, list[_Rule]] = {"digit": [], "letter": [], "sign": []}
        for data in book["rules"]:
            try:
                rule = _Rule(data, book["pieces"], words)
                for kind in data["starts"].split():
                    self._rules[kind].append(rule)
            except (re.error, KeyError, AttributeError, TypeError) as error:
                raise UserError(f"{_line(path, data)}: rule {data.get('name')!r} cannot be used ({error})") from error

    def __call__(self, draft: Draft) -> None:
        """Rewrite ``draft`` as it is said."""
        draft.replace(self.edits(draft.text))

    def edits(self, text: str) -> list[Edit]:
        """What is to be said otherwise than it is written, in order."""
        found: list[Edit] = []
        done = 0
        begin = self._begin(text)
        while begin is not None:
            start = begin.start()
            made = self._at(text, start)
            if made is None:
                end = start + len(begin[0])
            else:
                edits, end = made
                spaced = found and found[-1].end == start and found[-1].new.endswith(" ")
                if not spaced and _runs_on(text, start, end, done):
                    found.append(Edit(start, start, " "))
                found += edits
                done = end
            begin = self._begin(text, end)
        return found

    def _at(self, text: str, start: int) -> tuple[list[Edit], int] | None:
        first = text[start]
        kind = "digit" if first.isdigit() else "letter" if first.isascii() and first.isalpha() else "sign"
        for rule in self._rules[kind]:
            if rule.needs and not any(one in text for one in rule.needs):
                continue
            match = rule.match(text, start)
            if match is not None and match.end() > start and (edits := rule.edits(match)) is not None:
                return edits, max(match.end(), edits[-1].end if edits else 0)
        return None


def _runs_on(text: str, start: int, end: int, done: int) -> bool:
    """Whether what begins at ``start`` needs a space: 3월5일, 오전10시 and S24 do, 종로3가 does not."""
    if start == 0 or not text[start].isalnum() or not text[start - 1].isalnum():
        return False
    if done == start:
        return True
    return text[start].isdigit() and not text[end - 1].isdigit()


def _line(path: Path, data: Any) -> str:
    """The file, and the line in which a rule begins."""
    name = data.get("name") if isinstance(data, dict) else data
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if re.fullmatch(r"\s*(?:- )?name: *['\"]?" + re.escape(str(name)) + r"['\"]?\s*", line):
            return f"{path}, line {number}"
    return str(path)


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
    parts, at = [], 0
    for start, end, new in edits:
        parts += text[at:start], new
        at = end
    return "".join([*parts, text[at:]])
