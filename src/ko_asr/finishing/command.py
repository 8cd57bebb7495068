"""The options of finishing on a command line."""

import argparse
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.finishing.masks import read_masks
from ko_asr.finishing.options import VALUES, FinishOptions
from ko_asr.finishing.rule_book import resolved_style, rule_book
from ko_asr.finishing.terms import read_terms

_SWITCHES = {
    "disfluency_filter": "drop fillers (음, 어) and repetitions",
    "spacing": "repair words that look wrongly spaced",
    "punctuation": "end sentences in marks",
    "profanity_filter": "mask profanity",
    "profanity_keep_first": "mask profanity, but for its first character",
}


def add_arguments(parser: argparse.ArgumentParser, always: bool = False) -> None:
    """Add the options that `read_options` reads. ``always``: a command whose one purpose they are."""
    plain = FinishOptions()
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
        "--disfluency-level",
        choices=VALUES["disfluency_level"],
        help="sure (default) or aggressive, which drops also what may be a word (이제, 막)",
    )
    add("--masks", type=Path, metavar="FILE", help="mask the words of this list, one a line, and no others")
    add(
        "--paragraphs",
        type=int,
        nargs="?",
        const=plain.paragraph_max,
        metavar="N",
        help=f"paragraphs of about N words (default {plain.paragraph_max})",
    )
    add(
        "--analyzer",
        choices=VALUES["analyzer"],
        help="what tells sentences and spacing (default auto: kiwi where it is installed)",
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
    chosen = {name: True for name in _SWITCHES if getattr(args, name)} | _with_values(args)
    if not (args.always_written or args.written or chosen):
        return None
    return FinishOptions(**chosen)


def _with_values(args: argparse.Namespace) -> dict[str, Any]:
    """The options that are given and are more than a switch."""
    chosen: dict[str, Any] = {"itn": False} if args.no_itn else {}
    if args.profanity_keep_first:
        chosen["profanity_filter"] = True
    if args.style:
        chosen["style"] = chosen_style(args.style)
    if args.terms:
        chosen["terms"] = read_terms(args.terms)
    if args.disfluency_level:
        chosen |= {"disfluency_filter": True, "disfluency_level": args.disfluency_level}
    if args.masks:
        chosen |= {"profanity_filter": True, "profanity": tuple(read_masks(args.masks))}
    if args.paragraphs is not None:
        chosen |= {"paragraph_splitter": True, "paragraph_max": args.paragraphs}
    if args.analyzer:
        chosen["analyzer"] = args.analyzer
    return chosen


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
