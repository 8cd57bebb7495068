"""Transcriptions to training text, by the rules in ``rules.yaml``.

>>> normalize("n/ 어/ (20개)/(스무 개) 샀어.")
'어 20개 샀어'
>>> normalize("n/ 어/ (20개)/(스무 개) 샀어.", side="phonetic")
'어 스무 개 샀어'

The rules, their options and their test cases are data; this module only interprets them. Every text that
comes out is NFC with single spaces, unchanged by a second pass, free of tags, and never empty: a line that
would be empty, or that cannot be read, is rejected with a reason.
"""

import argparse
import functools
import importlib.resources
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import yaml

from ko_asr.errors import UserError
from ko_asr.runtime.hangul import stand_alone_jamo
from ko_asr.text.unicode_forms import fold_forms, spell_symbols

EMPTY = "empty after cleaning"
KSPONSPEECH, PLAIN = "ksponspeech", "plain"  # styles: conventions of transcription

_NOTHING_SAID = re.compile(r"[\W_]*")
_DEEPEST = 8  # passes of a rule that repeats: nesting deeper than that stays, and is rejected as a bracket


def _spaces(line: str) -> str:
    return " ".join(line.split())


def _substitution(rule: dict[str, Any], pattern: re.Pattern[str]) -> Callable[[str], str]:
    """Return what a rule with ``replace`` does: once or repeatedly, and never to what it is to ``keep``."""
    if "keep" in rule:
        kept = re.compile(rule["keep"])
        either = re.compile(f"(?:{rule['keep']})|(?:{rule['pattern']})")

        def beside_kept(match: re.Match[str]) -> str:
            return match[0] if kept.fullmatch(match[0]) else pattern.sub(rule["replace"], match[0])

        return functools.partial(either.sub, beside_kept)
    if rule.get("repeat"):

        def again(line: str) -> str:
            for _ in range(_DEEPEST):
                line, changes = pattern.subn(rule["replace"], line)
                if not changes:
                    break
            return line

        return again
    return functools.partial(pattern.sub, rule["replace"])


class Cleaned(NamedTuple):
    """Normalised line: its text, or the reason why it was rejected, and the rules that changed it."""

    text: str
    reason: str
    fired: tuple[str, ...]


class _Step(NamedTuple):
    name: str
    needs: str
    act: Callable[[str], str] | None  # None: the line is rejected when `found` matches
    found: Callable[[str], Any]
    reason: str


@functools.cache
def rule_book() -> dict[str, Any]:
    """Return the parsed ``rules.yaml``."""
    source = importlib.resources.files("ko_asr.text") / "rules.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    book: dict[str, Any] = yaml.load(source.read_text(encoding="utf-8"), Loader=loader)
    return book


def default_options() -> dict[str, str]:
    """Return every option with its default: ESPnet's choice where ESPnet's is not a plain mistake."""
    return {name: option["default"] for name, option in rule_book()["options"].items()}


def profile_spaces(profile: str) -> str:
    """Return "counted" or "removed", by whether a profile's toolkit scores spaces."""
    return str(rule_book()["profiles"][profile]["spaces"])


class Normalizer:
    """Compiled text rules under one choice of options: calling it with a raw line returns its text.

    >>> Normalizer(side="phonetic")("n/ 어/ (20개)/(스무 개) 샀어.")
    '어 스무 개 샀어'

    ``style`` is the corpus's convention of transcription (KSPONSPEECH has dual transcriptions and tags,
    PLAIN has none); ``profile`` is "" for this project's rules, or the toolkit whose counting to reproduce.
    Raises UserError for an option, value, style or profile that does not exist.
    """

    def __init__(self, style: str = KSPONSPEECH, profile: str = "", **options: str) -> None:
        self.style, self.profile = style, profile
        self.options = default_options() | options
        self._check(options)
        book = rule_book()
        rules = book["profiles"][profile]["rules"] if profile else book["rules"]
        self._steps = [self._compile(rule) for rule in rules if self._holds(rule)]

    # Worker processes compile their own.
    def __reduce__(self) -> tuple[Callable[..., "Normalizer"], tuple[()]]:
        return functools.partial(Normalizer, self.style, self.profile, **self.options), ()

    def __call__(self, line: str) -> str:
        """Return the text of ``line``, "" when it is rejected."""
        return self.clean(line).text

    def clean(self, line: str) -> Cleaned:
        """Normalise one raw line and name the rules that changed it."""
        fired: list[str] = []
        for name, needs, act, found, reason in self._steps:
            if needs not in line:  # the empty string is in every line
                continue
            if act is None:
                if found(line):
                    return Cleaned("", reason, (*fired, name))
                continue
            changed = act(line)
            if changed != line:
                fired.append(name)
                line = changed
        if _NOTHING_SAID.fullmatch(line):
            return Cleaned("", EMPTY, tuple(fired))
        return Cleaned(line, "", tuple(fired))

    def sides(self, line: str) -> dict[str, str]:
        """Return a line with dual transcriptions as ``written`` and as ``spoken``; nothing where that is one.

        The other options hold for both.

        >>> Normalizer().sides("n/ (20개)/(스무 개) 샀어.")
        {'written': '20개 샀어', 'spoken': '스무 개 샀어'}
        """
        if self.style != KSPONSPEECH or "(" not in line:
            return {}
        written, spoken = (side(line) for side in self._of_sides)
        return {"written": written, "spoken": spoken} if written and spoken and written != spoken else {}

    @functools.cached_property
    def _of_sides(self) -> tuple["Normalizer", "Normalizer"]:
        # These would write a part of one side into the other, or 1/3 as 13.
        both = self.options | {"digits": "keep", "latin": "keep", "numeric_marks": "keep"}
        written, spoken = (both | {"side": side} for side in ("orthographic", "phonetic"))
        return Normalizer(self.style, self.profile, **written), Normalizer(self.style, self.profile, **spoken)

    def describe(self) -> dict[str, str]:
        """Return the chosen rules and options, for audits and manifests."""
        chosen = {"side": self.options["side"]} if self.profile else self.options
        return {"profile": self.profile or "default", "style": self.style, **chosen}

    def _check(self, given: dict[str, str]) -> None:
        book = rule_book()
        if self.profile and self.profile not in book["profiles"]:
            raise UserError(f"no text profile '{self.profile}': choose one of {', '.join(book['profiles'])}")
        if self.style not in known_styles():
            raise UserError(
                f"no transcription style '{self.style}': choose one of {', '.join(known_styles())}"
            )
        for name, value in given.items():
            if name not in book["options"]:
                raise UserError(f"no text option '{name}': choose from {', '.join(book['options'])}")
            if value not in book["options"][name]["values"]:
                values = ", ".join(book["options"][name]["values"])
                raise UserError(f"text option {name} cannot be '{value}': choose one of {values}")

    def _holds(self, rule: dict[str, Any]) -> bool:
        if self.style not in rule.get("styles", [self.style]):
            return False
        wanted = rule.get("when", {}).items()
        return all(self.options[name] in ([v] if isinstance(v, str) else v) for name, v in wanted)

    def _compile(self, rule: dict[str, Any]) -> _Step:
        name = str(rule.get("name", rule.get("pattern", rule.get("call"))))
        pattern = re.compile(rule.get("pattern", ""))
        act: Callable[[str], str] | None = None
        if "call" in rule:
            act = self._function(rule["call"])
        elif "replace" in rule:
            act = _substitution(rule, pattern)
        return _Step(name, rule.get("needs", ""), act, pattern.search, rule.get("reject", ""))

    def _function(self, name: str) -> Callable[[str], str]:
        rule: Any = self.options["stand_alone_jamo"]  # options are checked against rules.yaml
        functions: dict[str, Callable[[str], str]] = {
            "unicode": fold_forms,
            "spell_symbols": spell_symbols,
            "spaces": _spaces,
            "lower": str.lower,
            "upper": str.upper,
            "stand_alone_jamo": lambda line: stand_alone_jamo(line, rule),
        }
        return functions[name]


def known_styles() -> list[str]:
    """Return the names of the transcription styles."""
    return sorted(rule_book()["styles"])


def add_style_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--style``, for text whose convention of transcription only its owner knows."""
    about = "; ".join(f"{name}: {text}" for name, text in rule_book()["styles"].items())
    parser.add_argument(
        "--style",
        choices=known_styles(),
        default=PLAIN,
        help=f"convention of the transcriptions (default {PLAIN}); {about}".replace("%", "%%"),
    )


@functools.lru_cache(maxsize=32)
def _normalizer(style: str, profile: str, options: tuple[tuple[str, str], ...]) -> Normalizer:
    return Normalizer(style, profile, **dict(options))


def normalize(line: str, style: str = KSPONSPEECH, profile: str = "", **options: str) -> str:
    """Return the training text of one raw transcription, "" when it is rejected.

    ``style`` is the corpus's convention of transcription, ``profile`` another toolkit's counting, and
    ``options`` are those of text/rules.yaml; `Normalizer` explains them, and is what many lines want.
    Raises UserError for an option, value, style or profile that does not exist.

    >>> normalize("b/ 저는 (3번)/(세 번) 봤+ 봤어요.", side="phonetic")
    '저는 세 번 봤 봤어요'
    """
    return _normalizer(style, profile, tuple(sorted(options.items())))(line)


def add_text_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--profile`` and one argument for every option in ``rules.yaml``."""
    book = rule_book()
    group = parser.add_argument_group("text", "how transcriptions become text (text/rules.yaml)")
    profiles = "; ".join(f"{name}: {profile['about']}" for name, profile in book["profiles"].items())
    profiles = f"count as another toolkit does: {profiles}".replace("%", "%%")
    group.add_argument(
        "--profile",
        choices=list(book["profiles"]),
        default="",
        help=profiles,
    )
    for name, option in book["options"].items():
        flag = "--" + name.replace("_", "-")
        help_text = f"{option['about']} (default {option['default']})".replace("%", "%%")
        group.add_argument(flag, choices=option["values"], default=option["default"], help=help_text)


def normalizer_from(args: argparse.Namespace, style: str = KSPONSPEECH) -> Normalizer:
    """Make the normaliser that the parsed `add_text_arguments` describe.

    Raises UserError when a profile is combined with an option that it would ignore.
    """
    options = {name: getattr(args, name) for name in rule_book()["options"]}
    changed = [n for n, value in options.items() if n != "side" and value != default_options()[n]]
    if args.profile and changed:
        flags = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise UserError(
            f"--profile {args.profile} has rules of its own and ignores {flags}: give one or the other"
        )
    return Normalizer(style, args.profile, **options)


def count_rules(fired: Iterable[tuple[str, ...]]) -> dict[str, int]:
    """Count the lines that each rule changed."""
    counts: dict[str, int] = {}
    for names in fired:
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    return counts
