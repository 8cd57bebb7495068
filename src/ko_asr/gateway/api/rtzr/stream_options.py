"""The query of RTZR's streaming address, checked: unknown parameters are ignored, as theirs does."""

from dataclasses import dataclass

from starlette.datastructures import QueryParams

from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.live.encodings import ENCODINGS
from ko_asr.runtime.endpoint import EndpointRules

_RATES = (8_000, 48_000)  # Hz
_KEYWORD_SCORE = 2.0  # of a keyword without one
_LONGEST = 60.0  # seconds of either end-point rule
# They change nothing here; a client that sends its usual set is not refused for it.
_CHOICES = {
    "domain": ("CALL", "MEETING", "GENERAL"),
    "language": ("ko",),
}
# What is done to the text, and what is done where nothing is said: RTZR's.
_SWITCHES = {
    "use_itn": True,
    "use_disfluency_filter": False,
    "use_profanity_filter": False,
    "use_punctuation": False,
}
_MODELS = ("sommers_ko", "sommers")


@dataclass(frozen=True)
class RtzrOptions:
    """What one stream asks for; ``rate`` in Hz, ``keywords`` as 단어:점수, not checked yet.

    ``switches`` are FinishOptions by their names, for `api.rtzr.written`.
    """

    encoding: str
    rate: int
    rules: EndpointRules
    keywords: tuple[str, ...]
    switches: dict[str, bool]


def read_query(query: QueryParams, models: tuple[str, ...]) -> RtzrOptions:
    """Check ``query``; ``models`` are this gateway's. ApiError for what cannot be honoured."""
    encoding = _choice(query, "encoding", ENCODINGS)
    rate = _number(query, "sample_rate", *_RATES)
    if rate is None or encoding is None:
        missing = "sample_rate" if rate is None else "encoding"
        raise ApiError(400, f"{missing} is missing: a stream needs sample_rate and encoding", param=missing)
    _choice(query, "model_name", (*_MODELS, *models))
    for name, choices in _CHOICES.items():
        _choice(query, name, choices)
    words = _keywords(query.get("keywords", ""))
    switches = {name.removeprefix("use_"): _switch(query, name) for name in _SWITCHES}
    return RtzrOptions(encoding, int(rate), _rules(query), words, switches)


def _switch(query: QueryParams, name: str) -> bool:
    said = _choice(query, name, ("true", "false"))
    return _SWITCHES[name] if said is None else said == "TRUE"


def _rules(query: QueryParams) -> EndpointRules:
    silence, longest = (_number(query, name, 0.05, _LONGEST) for name in ("epd_time", "max_utter_duration"))
    default = EndpointRules()
    return EndpointRules(
        silence_after_speech_ms=default.silence_after_speech_ms if silence is None else 1000 * silence,
        max_utterance_ms=default.max_utterance_ms if longest is None else 1000 * longest,
    )


def _keywords(text: str) -> tuple[str, ...]:
    words = [item.strip() for item in text.split(",") if item.strip()]
    return tuple(word if ":" in word else f"{word}:{_KEYWORD_SCORE:g}" for word in words)


def _choice(query: QueryParams, name: str, choices: tuple[str, ...]) -> str | None:
    value = query.get(name)
    if value is not None and value.lower() not in map(str.lower, choices):
        known = ", ".join(dict.fromkeys(choices))
        raise ApiError(400, f"{name} is {value[:60]!r}: it must be one of {known}", param=name)
    return None if value is None else value.upper()


def _number(query: QueryParams, name: str, least: float, most: float) -> float | None:
    value = query.get(name)
    try:
        found = None if value is None else float(value)
    except ValueError:
        found = -1.0
    if found is not None and not least <= found <= most:
        sentence = f"{name} is {str(value)[:60]!r}: it must be between {least:g} and {most:g}"
        raise ApiError(400, sentence, param=name)
    return found
