"""The rules of ``itn.yaml``: options checked, names in patterns replaced by what they stand for."""

import re
from collections.abc import Mapping
from typing import Any

from ko_asr.errors import UserError
from ko_asr.finishing.data import load


def rule_book() -> dict[str, Any]:
    """Return the rules as they are written in the file."""
    book: dict[str, Any] = load("itn")
    return book


def resolved_style(style: Mapping[str, str]) -> dict[str, str]:
    """Every option with its value. UserError for an option or value that does not exist."""
    options = rule_book()["options"]
    chosen = {name: option["default"] for name, option in options.items()}
    for name, value in style.items():
        if name not in options:
            raise UserError(f"style has no option {name!r:.60}: it has {', '.join(options)}")
        if value not in options[name]["values"]:
            known = ", ".join(options[name]["values"])
            raise UserError(f"style {name} is {value!r:.60}: it takes {known}")
        chosen[name] = value
    return chosen


def holds(when: Mapping[str, str] | None, style: Mapping[str, str]) -> bool:
    """True where a rule or table is for this style."""
    return all(style[name] == value for name, value in (when or {}).items())


def alternatives(words: Any) -> str:
    """A pattern that finds one of ``words``, the longest of those that fit."""
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
