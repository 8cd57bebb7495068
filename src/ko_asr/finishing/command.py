"""The options of finishing on a command line."""

import argparse
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.rule_book import resolved_style, rule_book

_SWITCHES = {
    "disfluency_filter": "drop fillers (음, 어) and repetitions",
    "spacing": "repair words that look wrongly spaced",
    "punctuation": "end sentences in marks",
    "profanity_filter": "mask profanity",
}


def add_arguments(parser: argparse.ArgumentParser, always: bool = False) -> None:
    """Add the options that `read_options` reads. ``always``: a command whose one purpose they are."""
    if always:
        group = parser.add_argument_group("written form")
    else:
        group = parser.add_argument_group("written form, where one of these is given")
        group.add_argument("--written", action="store_true", help="numbers in digits: 3월 5일에 15,000원")
    parser.set_defaults(always_written=always)
    add = group.add_argument
    add("--no-itn", action="store_true", help="leave numbers as they are spoken")
    add("--style", action="append", default=[], metavar="NAME=VALUE", help=_styles())
    add("--terms", type=Path, metavar="FILE", help="how terms are written, a line each: spoken -> written")
    for name, about in _SWITCHES.items():
        add(f"--{name.replace('_', '-')}", action="store_true", help=about)
    add(
        "--paragraphs",
        type=int,
        nargs="?",
        const=FinishOptions.paragraph_max,
        metavar="N",
        help=f"paragraphs of about N words (default {FinishOptions.paragraph_max})",
    )


def _styles() -> str:
    """The styles for ``--help``, with their values, the default first."""
    found = []
    for name, option in rule_book()["options"].items():
        values = sorted(option["values"], key=lambda value: value != option["default"])
        found.append(f"{name}={'|'.join(values)}")
    return f"how numbers are written, repeatable; the first value is the default: {', '.join(found)}"


def read_options(args: argparse.Namespace) -> FinishOptions | None:
    """Return the options of a command line with `add_arguments`; None where none is given.

    UserError for a style that does not exist and a file that cannot be read.
    """
    given: dict[str, Any] = {name: True for name in _SWITCHES if getattr(args, name)}
    if not (args.always_written or args.written or given or _others(args)):
        return None
    if args.paragraphs is not None and args.paragraphs < 1:
        raise UserError(f"--paragraphs is {args.paragraphs}: a paragraph has at least one word")
    return FinishOptions(
        itn=not args.no_itn,
        style=chosen_style(args.style),
        terms=_terms(args.terms),
        paragraph_splitter=args.paragraphs is not None,
        paragraph_max=args.paragraphs or FinishOptions.paragraph_max,
        **given,
    )


def _others(args: argparse.Namespace) -> bool:
    return bool(args.no_itn or args.style or args.terms or args.paragraphs is not None)


def chosen_style(given: list[str]) -> dict[str, str]:
    """Return the styles of ``NAME=VALUE``. UserError, before any work, for what is not that or unknown."""
    style = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise UserError(f"--style {one} is not NAME=VALUE, such as --style commas=none")
        style[name.strip()] = value.strip()
    resolved_style(style)
    return style


def _terms(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    from ko_asr.finishing.terms import read_terms

    return read_terms(path)
