"""The config of RTZR's POST /v1/transcribe, checked: unknown fields are ignored, as theirs are."""

import json
from typing import Any

from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.strict_json import read_json
from ko_asr.gateway.written.request import FIELD

CONFIG = "config"
WORD_TIMES = "rtzr_words"  # the field of a job that says that its words are wanted
PARAGRAPH = "rtzr_paragraph"  # and the one with the most letters of its paragraphs
_MODELS = ("sommers", "sommers_ko")
_DOMAINS = ("GENERAL", "CALL")
_BOOLEANS = ("use_diarization", "use_word_timestamp")
# What is done to the text, and what is done where nothing is said: RTZR's; its files know no use_punctuation.
_SWITCHES = {
    "use_itn": True,
    "use_disfluency_filter": True,
    "use_profanity_filter": False,
    "use_punctuation": False,
    "use_paragraph_splitter": True,
}
_PARAGRAPH = 50  # letters
_KEYWORDS = (500, 20)  # words, characters of one


def read_config(text: str | None, models: tuple[str, ...]) -> dict[str, list[str]]:
    """The fields of a job that does what ``text`` asks; ``models`` are this gateway's. ApiError."""
    config = _parsed(text)
    name = _choice(config, "model_name", (*_MODELS, *models), _MODELS[0])
    _choice(config, "domain", _DOMAINS, _DOMAINS[0])
    _choice(config, "language", ("ko",), "ko")
    for field in (*_BOOLEANS, *_SWITCHES):
        if not isinstance(config.get(field, False), bool):
            raise _wrong(field, "it must be true or false")
    _check_diarization(config)
    if config.get("language_candidates"):
        raise _wrong("language_candidates", f"{_MODELS[0]} knows Korean (ko) only")
    fields = {"model": [name if name in models else models[0]], "language": ["ko"]}
    if keywords := _keywords(config.get("keywords")):
        fields["keywords"] = keywords
    if config.get("use_word_timestamp"):
        fields[WORD_TIMES] = ["true"]
    return fields | _text_fields(config)


def _text_fields(config: dict[str, Any]) -> dict[str, list[str]]:
    """The fields that say how the text is written; with all switches off it is as spoken."""
    switches = {name.removeprefix("use_"): config.get(name, on) for name, on in _SWITCHES.items()}
    most = _paragraph_max(config)
    paragraph = {PARAGRAPH: [str(most)]} if switches["paragraph_splitter"] else {}
    return {FIELD: [json.dumps(switches if any(switches.values()) else False)], **paragraph}


def _paragraph_max(config: dict[str, Any]) -> int:
    splitter = config.get("paragraph_splitter", {})
    most = splitter.get("max", _PARAGRAPH) if isinstance(splitter, dict) else None
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise _wrong("paragraph_splitter", 'it must be {"max": NUMBER}, of 1 letter or more')
    return most


def _parsed(text: str | None) -> dict[str, Any]:
    try:
        found = read_json(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise _wrong(CONFIG, "it must be a JSON object")
    return {name: value for name, value in found.items() if value is not None}


def _check_diarization(config: dict[str, Any]) -> None:
    diarization = config.get("diarization", {})
    count = diarization.get("spk_count", 0) if isinstance(diarization, dict) else None
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise _wrong("diarization", 'it must be {"spk_count": NUMBER}')
    if count and not config.get("use_diarization"):
        raise _wrong("diarization", "spk_count needs use_diarization")


def _keywords(given: Any) -> list[str]:
    most, longest = _KEYWORDS
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        raise _wrong("keywords", "it must be a list of words")
    if len(given) > most or any(len(word) > longest for word in given):
        raise _wrong("keywords", f"at most {most} words of {longest} characters are taken")
    return given


def _choice(config: dict[str, Any], field: str, choices: tuple[str, ...], default: str) -> str:
    value = config.get(field, default)
    if value not in choices:
        raise _wrong(field, f"it must be one of {', '.join(choices)}")
    return str(value)


def _wrong(field: str, rule: str) -> ApiError:
    return ApiError(400, f"{field}: {rule}", param=field)
