"""The options that a client may send with a stream or a file: end-points, keywords, the written form.

A JSON object, sent with a stream's first request; export writes the server's defaults in the same form:

    {"endpointing": {"silence_after_speech_ms": 500, "max_utterance_ms": null}, "keywords": ["철수:3"],
     "written": {"punctuation": true}}

``"endpointing": null`` gives one utterance with the text of the whole stream; a file has no end-points.
Keywords make the search a beam search. ``"written": true`` is the written form by its defaults. Runs inside
the server.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NoReturn

from ko_asr.errors import UserError
from ko_asr.finishing.options import FinishOptions
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.decoder import make_decoder
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.keywords import parse_keywords
from ko_asr.runtime.results import Decoder
from ko_asr.runtime.stream_contract import StreamingContract

_FILE_KEYS = ("keywords", "written")
_KEYS = ("endpointing", *_FILE_KEYS)
_RULES = tuple(rule.name for rule in fields(EndpointRules))
_MOST_BYTES = 1 << 16  # more than the most keywords take, with each character escaped


@dataclass(frozen=True)
class StreamOptions:
    """The decoding of one stream.

    >>> StreamOptions().updated('{"endpointing": {"silence_after_speech_ms": 800}}').endpointing
    EndpointRules(silence_after_speech_ms=800, silence_without_speech_ms=2400.0, max_utterance_ms=12000.0)
    """

    endpointing: EndpointRules | None = field(default_factory=EndpointRules)
    keywords: tuple[str, ...] = ()
    written: FinishOptions | None = None  # the written form beside the spoken one

    def updated(self, given: str | bytes) -> "StreamOptions":
        """These options with those of a JSON object in their place. UserError names what is wrong."""
        data = _read(given)
        if not isinstance(data, dict) or not set(data) <= set(_KEYS):
            raise UserError(f"options is an object with the keys {', '.join(_KEYS)}, not {_shown(data)}")
        changes: dict[str, Any] = {}
        if "endpointing" in data:
            changes["endpointing"] = self._rules(data["endpointing"])
        if "keywords" in data:
            changes["keywords"] = _keywords(data["keywords"])
        if "written" in data:
            changes["written"] = _written(data["written"])
        return replace(self, **changes)

    def _rules(self, data: Any) -> EndpointRules | None:
        if data is None:
            return None
        if not isinstance(data, dict) or not set(data) <= set(_RULES):
            raise UserError(f"options.endpointing is null or an object with the keys {', '.join(_RULES)}")
        if any(isinstance(v, bool) or not isinstance(v, int | float | None) for v in data.values()):
            raise UserError("options.endpointing holds times in ms, or null for a rule that is off")
        try:
            return replace(self.endpointing or EndpointRules(), **data)
        except ValueError as error:
            raise UserError(f"options.endpointing: {error}") from error

    def to_json(self) -> str:
        """The JSON object that gives these options. UserError for text that is no Unicode.

        An older server knows no written form, so only what asks for one names it.
        """
        rules = vars(self.endpointing) if self.endpointing else None
        return _to_json({"endpointing": rules, **_named(self.keywords, self.written)})

    def decoder(self, contract: StreamingContract) -> Decoder:
        """A decoder for one stream. UserError for options that cannot be: a keyword that no token spells."""
        frame_ms = 1000.0 * contract.frame_seconds
        settings = DecoderSettings(contract.text_vocabulary(), contract.blank_id, frame_ms, self.endpointing)
        return make_decoder(settings, parse_keywords(self.keywords), written=self.written)


@dataclass(frozen=True)
class FileOptions:
    """The decoding of one file. It has no end-points: with "endpointing" options are refused.

    >>> FileOptions.read('{"keywords": ["철수:3"]}')
    FileOptions(keywords=('철수:3',), written=None)
    """

    keywords: tuple[str, ...] = ()
    written: FinishOptions | None = None

    @classmethod
    def read(cls, given: str | bytes) -> "FileOptions":
        """The options that a file's JSON object gives. UserError names what is wrong."""
        data = _read(given)
        if not isinstance(data, dict) or not set(data) <= set(_FILE_KEYS):
            raise UserError(
                f"options of a file is an object with the keys {', '.join(_FILE_KEYS)}, not {_shown(data)}"
            )
        return cls(_keywords(data.get("keywords", [])), _written(data.get("written")))

    def to_json(self) -> str:
        """The JSON object that gives these options. UserError for text that is no Unicode."""
        return _to_json(_named(self.keywords, self.written))


def _named(keywords: Sequence[str], written: FinishOptions | None) -> dict[str, Any]:
    data: dict[str, Any] = {"keywords": list(keywords)}
    return data if written is None else data | {"written": written.to_json()}


def _to_json(data: dict[str, Any]) -> str:
    _check_text(data)
    return json.dumps(data, ensure_ascii=False)


def _shown(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False)[:80]


def _read(given: str | bytes) -> Any:
    """The JSON value of ``given``, whatever a client may have sent; UserError when it is none."""
    if len(given) > _MOST_BYTES:
        raise UserError(f"options is too long: {len(given)} bytes, at most {_MOST_BYTES}")
    try:
        text = given if isinstance(given, str) else given.decode("utf-8")
        data = json.loads(text, parse_constant=_refuse_number, parse_float=_finite)
        _check_text(data)
    except UnicodeDecodeError as error:
        raise UserError(f"options is not UTF-8 (byte {error.start})") from error
    except RecursionError:
        raise UserError("options is nested too deeply: it is one flat object") from None
    except ValueError as error:
        reason = "a number of thousands of digits" if "digits" in str(error) else error
        raise UserError(f"options is not JSON ({reason})") from error
    return data


def _refuse_number(name: str) -> NoReturn:
    """json takes NaN and Infinity, which JSON has not."""
    raise ValueError(f"{name} is no number of JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _check_text(data: Any) -> None:
    """Raise UserError when a string of ``data`` holds half of a UTF-16 pair, which no answer could repeat."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])[1:-1]
        raise UserError(f"options holds {half}, a surrogate and no character: send text as UTF-8") from error


def _keywords(data: Any) -> tuple[str, ...]:
    if not isinstance(data, list) or not all(isinstance(word, str) for word in data):
        raise UserError('options.keywords is a list of words, such as ["철수:3", "서울 시청"]')
    return tuple(data)


def _written(data: Any) -> FinishOptions | None:
    return None if data is None or data is False else FinishOptions.from_json(data, "options.written")
