"""The field ``written``: true, or a JSON object of `ko_asr.finishing.options.FinishOptions`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ko_asr.errors import UserError
from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.strict_json import is_writable, read_json

if TYPE_CHECKING:
    from ko_asr.gateway.audio.upload import Form

FIELD = "written"
_MOST_LETTERS = 10_000  # of terms and words to mask: they are kept for the requests that follow


@dataclass(frozen=True)
class Asked:
    """A written form, beside the spoken one or ``instead`` of it."""

    options: FinishOptions
    instead: bool = False


def read_written(form: "Form") -> Any:
    """The value of the field: true, false, an object, None without one. ApiError."""
    if any(name.startswith(f"{FIELD}[") for name in form.fields):
        raise _refused("send it as one field, true or the text of a JSON object", FIELD)
    text = form.one(FIELD)
    if not text:
        return None
    try:
        return read_json(text.lower() if text.lower() in ("true", "false") else text)
    except ValueError:
        raise _refused(f"{text[:60]!r} is no JSON: it must be true, false or an object", FIELD) from None


def asked(value: Any, default: FinishOptions | None, param: str = FIELD) -> Asked | None:
    """What a ``value`` of JSON asks for on a route that knows the spoken form only.

    Without one (None) the server's ``default`` takes the place of the spoken text. ApiError names ``param``.
    """
    if value is None:
        return Asked(default, instead=True) if default else None
    return Asked(finish_options(value, default, param)) if value is not False else None


def finish_options(value: Any, default: FinishOptions | None, param: str = FIELD) -> FinishOptions:
    """The options that ``value`` names, the others by the server's ``default``. ApiError names ``param``."""
    if not is_writable(value):  # it may have come another way than through `read_json`
        raise _refused("it holds half a character", param)
    try:
        given = FinishOptions.from_json(value, param)
        made = replace(default or FinishOptions(), **_named(given, value))
        letters = sum(map(len, (*given.terms, *given.terms.values(), *given.profanity)))
        if letters > _MOST_LETTERS:
            raise UserError(f"{param}: terms and profanity have more than {_MOST_LETTERS:,} characters")
        Finisher(made)
    except UserError as error:
        raise ApiError(400, str(error), param=param, code="invalid_value") from error
    return made


def _named(given: FinishOptions, value: Any) -> Mapping[str, Any]:
    names = value if isinstance(value, dict) else ()
    return {one.name: getattr(given, one.name) for one in fields(given) if one.name in names}


def _refused(sentence: str, param: str) -> ApiError:
    return ApiError(400, f"{param}: {sentence}", param=param, code="invalid_value")
