"""What is done to spoken text, under the names that recognition APIs give it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ko_asr.errors import UserError


@dataclass(frozen=True)
class FinishOptions:
    """What `Finisher` does; everything but numbers is off until it is asked for, as in RTZR's streams.

    ``itn``: numbers, dates, money, units and spelt letters as they are written. ``style``: the choices that
    companies differ in (`ko_asr.finishing.rule_book` names them and their values). ``disfluency_filter``:
    fillers and repetitions are dropped. ``spacing``: words that look wrongly spaced are repaired.
    ``punctuation``: sentences end in marks. ``profanity_filter``: words of a list are masked.
    ``paragraph_splitter``: paragraphs of about ``paragraph_max`` words. ``terms``: spoken to written.
    """

    itn: bool = True
    disfluency_filter: bool = False
    spacing: bool = False
    punctuation: bool = False
    profanity_filter: bool = False
    paragraph_splitter: bool = False
    paragraph_max: int = 50
    style: Mapping[str, str] = field(default_factory=dict)
    terms: Mapping[str, str] = field(default_factory=dict)

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
        kinds = {one.name: type(getattr(cls(), one.name)) for one in fields(cls)}
        for name, value in data.items():
            if name not in kinds:
                raise UserError(f"{where} has no option {name!r:.60}: it has {', '.join(kinds)}")
            _check(f"{where}.{name}", value, kinds[name])
        return cls(**data)


def _check(name: str, value: Any, kind: type) -> None:
    if kind is dict:
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in (*value, *value.values())):
            raise UserError(f"{name} is an object of strings, not {value!r:.60}")
    elif type(value) is not kind:
        raise UserError(
            f"{name} is {'true or false' if kind is bool else 'a whole number'}, not {value!r:.60}"
        )
