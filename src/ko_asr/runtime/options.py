"""The options that a client may send with a stream: end-point rules, and keywords to favour.

A JSON object, sent with a stream's first request; export writes the server's defaults in the same form:

    {"endpointing": {"silence_after_speech_ms": 500, "max_utterance_ms": null}, "keywords": ["철수:3"]}

``"endpointing": null`` gives one utterance with the text of the whole stream. Keywords make the search a beam
search. Runs inside the server.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NoReturn

from ko_asr.errors import UserError
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.decoder import make_decoder
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.keywords import Keyword, parse_keywords
from ko_asr.runtime.results import Decoder
from ko_asr.runtime.stream_contract import StreamingContract

_KEYS = ("endpointing", "keywords")
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
        """The JSON object that gives these options. UserError for keywords that are no Unicode text."""
        rules = vars(self.endpointing) if self.endpointing else None
        return _to_json({"endpointing": rules, "keywords": list(self.keywords)})

    def decoder(self, contract: StreamingContract) -> Decoder:
        """A decoder for one stream. UserError for keywords that are invalid or that no token spells."""
        frame_ms = 1000.0 * contract.frame_seconds
        settings = DecoderSettings(contract.text_vocabulary(), contract.blank_id, frame_ms, self.endpointing)
        return make_decoder(settings, parse_keywords(self.keywords))


def keywords_json(keywords: Sequence[str]) -> str:
    """The JSON object that asks for ``keywords`` in a file. UserError for what is no Unicode text."""
    return _to_json({"keywords": list(keywords)})


def read_keywords(given: str | bytes) -> list[Keyword]:
    """The keywords that a file's JSON object asks for. UserError names what is wrong.

    A file has no end-points: with "endpointing" it is refused, rather than read as if that had been heeded.
    """
    data = _read(given)
    if not isinstance(data, dict) or not set(data) <= {"keywords"}:
        raise UserError(f"options of a file is an object with the key keywords, not {_shown(data)}")
    return parse_keywords(_keywords(data.get("keywords", [])))


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
