"""What is done to spoken text, under the names that recognition APIs give it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ko_asr.errors import UserError

_MOST: dict[type, int] = {dict: 1000, tuple: 500}  # entries, compiled in about 10 ms while others wait
_KINDS = {bool: "true or false", int: "a whole number", str: "a string"}
VALUES = {"disfluency_level": ("sure", "aggressive"), "analyzer": ("auto", "kiwi", "rules")}


@dataclass(frozen=True)
class FinishOptions:
    """What `Finisher` does; everything but numbers is off until it is asked for, as in RTZR's streams.

    ``itn``: numbers, dates, money, units and spelt letters as they are written. ``style``: the choices that
    companies differ in (`ko_asr.finishing.rule_book` names them and their values). ``disfluency_filter``:
    fillers and repetitions are dropped, with ``disfluency_level`` aggressive those too that may be words.
    ``spacing``: words that look wrongly spaced are repaired. ``punctuation``: sentences end in marks.
    ``profanity_filter``: words of a list are masked, but for their first character where
    ``profanity_keep_first``; ``profanity`` is a list of the user's own (`ko_asr.finishing.masks`).
    ``paragraph_splitter``: paragraphs of about ``paragraph_max`` words. ``terms``: spoken to written.
    ``analyzer``: kiwi, rules, or auto, which is kiwi where it is installed; for spacing and sentences.
    """

    itn: bool = True
    disfluency_filter: bool = False
    disfluency_level: str = "sure"
    spacing: bool = False
    punctuation: bool = False
    profanity_filter: bool = False
    profanity_keep_first: bool = False
    paragraph_splitter: bool = False
    paragraph_max: int = 50
    analyzer: str = "auto"
    style: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)
    profanity: Sequence[str] = ()

    def __post_init__(self) -> None:
        """UserError for a value of another kind, or one that does not exist."""
        for one in fields(self):
            _check(one.name, getattr(self, one.name), _KINDS_OF[one.name])
        _check_values(self)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values, of what differs from the defaults."""
        plain = FinishOptions()
        return {name: value for name, value in asdict(self).items() if value != getattr(plain, name)}

    @classmethod
    def from_json(cls, data: Any, where: str = "written") -> "FinishOptions":
        """Read options that a user gave as JSON: an object, or true for the defaults.

        Raises UserError, which names ``where``.
        """
        if data is True:
            return cls()
        if not isinstance(data, dict):
            raise UserError(f"{where} is true or an object of options, not {data!r:.60}")
        for name, value in data.items():
            if name not in _KINDS_OF:
                raise UserError(f"{where} has no option {name!r:.60}: it has {', '.join(_KINDS_OF)}")
            _check(f"{where}.{name}", value, _KINDS_OF[name])
            _check_number(f"{where}.{name}", value, _KINDS_OF[name])
        return cls(**(data | {"profanity": tuple(data.get("profanity", ()))}))


_KINDS_OF: dict[str, type] = {
    name: tuple if name == "profanity" else dict if name in ("style", "terms") else type(one.default)
    for name, one in FinishOptions.__dataclass_fields__.items()
}


def _check_values(options: FinishOptions, where: str = "") -> None:
    for name, values in VALUES.items():
        value = getattr(options, name)
        if value not in values:
            raise UserError(f"{where}{name} is {value!r:.60}: it takes {', '.join(values)}")
    if options.paragraph_max < 1:
        raise UserError(f"{where}paragraph_max is {options.paragraph_max}: give at least 1 word")


def _check_number(name: str, value: Any, kind: type) -> None:
    if kind in _MOST and len(value) > _MOST[kind]:
        raise UserError(
            f"{name} has {len(value):,} entries: a request or stream takes {_MOST[kind]:,} at most"
        )


def _check(name: str, value: Any, kind: type) -> None:
    if kind is dict:
        if not isinstance(value, Mapping) or not all(
            isinstance(one, str) for one in (*value, *value.values())
        ):
            raise UserError(f"{name} is an object of strings, not {value!r:.60}")
    elif kind is tuple:
        if (
            not isinstance(value, Sequence)
            or isinstance(value, str)
            or not all(isinstance(one, str) for one in value)
        ):
            raise UserError(f"{name} is a list of strings, not {value!r:.60}")
    elif type(value) is not kind:
        raise UserError(f"{name} is {_KINDS[kind]}, not {value!r:.60}")
