"""The fields of OpenAI's transcription request, checked: what cannot be honoured is refused, by name."""

from dataclasses import dataclass

from ko_asr.gateway.audio.upload import Form
from ko_asr.gateway.audio.wanted import Wanted, read_wanted
from ko_asr.gateway.engine.keywords import Keywords, read_keywords
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.gateway.written.request import Asked, asked, read_written

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
GRANULARITIES = ("word", "segment")
_KOREAN = ("ko", "kor", "korean", "ko-kr")


@dataclass(frozen=True)
class TranscriptionOptions:
    """What the answer to one request looks like."""

    response_format: str
    granularities: tuple[str, ...]
    stream: bool
    keywords: Keywords
    audio: Wanted
    written: Asked | None = None


def check_model(name: str | None, settings: Settings) -> None:
    """Raise ApiError unless the gateway has the model ``name``."""
    known = ", ".join(settings.models)
    if not name:
        raise ApiError(400, f"model is missing: this gateway has {known}", param="model")
    if name not in settings.models:
        raise ApiError(
            404,
            f"there is no model {name[:60]!r}: this gateway has {known}",
            param="model",
            code="model_not_found",
        )


def read_options(form: Form, settings: Settings) -> TranscriptionOptions:
    """Check the fields of ``form``. ApiError for one that cannot be honoured.

    ``temperature`` is taken and changes nothing: a CTC model has none.
    """
    check_model(form.one("model"), settings)
    _check_language(form)
    _check_unsupported(form)
    response_format = _choice(form.one("response_format") or "json", FORMATS, "response_format")
    stream = _choice((form.one("stream") or "false").lower(), ("true", "false"), "stream") == "true"
    if stream and response_format != "json":
        raise ApiError(400, "stream=true gives events: leave response_format out", param="response_format")
    wanted = form.many("timestamp_granularities")
    if wanted and response_format != "verbose_json":
        sentence = "timestamp_granularities need response_format verbose_json"
        raise ApiError(400, sentence, param="timestamp_granularities")
    checked = [_choice(value, GRANULARITIES, "timestamp_granularities") for value in wanted]
    keywords, audio = read_keywords(form.many("keywords"), form.one("prompt") or ""), read_wanted(form)
    if stream and audio.separate:
        sentence = "channels=separate cannot be streamed: leave stream out, or take channels=mix"
        raise ApiError(400, sentence, param="channels")
    written = asked(read_written(form), settings.written)
    granularities = tuple(checked) or ("segment",)
    return TranscriptionOptions(response_format, granularities, stream, keywords, audio, written)


def _choice(value: str, choices: tuple[str, ...], param: str) -> str:
    if value not in choices:
        raise ApiError(400, f"{param} is {value[:60]!r}: it must be one of {', '.join(choices)}", param=param)
    return value


def _check_language(form: Form) -> None:
    for param, values in (
        ("language", form.fields.get("language", [])),
        ("languages", form.many("languages")),
    ):
        for value in values:
            if value.lower() not in ("", *_KOREAN):
                sentence = f"{param} is {value[:60]!r}: this model knows Korean (ko) only"
                raise ApiError(400, sentence, param=param, code="unsupported_language")


def _check_unsupported(form: Form) -> None:
    if (strategy := form.one("chunking_strategy")) not in (None, "", "auto"):
        sentence = f"chunking_strategy is {strategy[:60]!r}: only auto is offered"
        raise ApiError(400, sentence, param="chunking_strategy", code="unsupported_parameter")
    for param in ("include", "known_speaker_names", "known_speaker_references"):
        if any(form.many(param)):
            sentence = f"{param} is not offered by this model: leave it out"
            raise ApiError(400, sentence, param=param, code="unsupported_parameter")
    if any(name.startswith("chunking_strategy[") for name in form.fields):
        sentence = "chunking_strategy: only auto is offered"
        raise ApiError(400, sentence, param="chunking_strategy", code="unsupported_parameter")
