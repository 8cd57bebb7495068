"""The configuration of a Realtime transcription session, as `session.update` changes it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from ko_asr.finishing.options import FinishOptions
from ko_asr.gateway.engine.keywords import Keywords, read_keywords
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.options import check_model
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.gateway.written.request import asked
from ko_asr.runtime.endpoint import EndpointRules

PCM_RATE, G711_RATE = 24_000, 8_000  # Hz
# Of this gateway's own, for those who ask: text that may still change, and the words of a complete item.
PARTIAL, WORDS = (f"item.input_audio_transcription.{kind}" for kind in ("partial", "words"))
INCLUDABLE = frozenset((PARTIAL, WORDS))
# A turn that the client ends is one utterance, but for one that is longer than what a client can resume.
_COMMITTED = EndpointRules(
    silence_after_speech_ms=None, silence_without_speech_ms=None, max_utterance_ms=50_000
)
_KOREAN = ("ko", "kor", "korean", "ko-kr")
_WHERE = "session.audio.input"
KEYWORDS, WRITTEN = (f"{_WHERE}.transcription.{name}" for name in ("keywords", "written"))


class Format(BaseModel):
    """Encoding of the audio."""

    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"] = "audio/pcm"
    rate: Literal[24000, 8000] | None = None


class TurnDetection(BaseModel):
    """Where an utterance ends. ``threshold`` is taken and changes nothing: the model hears speech itself."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    prefix_padding_ms: Annotated[int, Field(ge=0, le=60_000)] = 300
    silence_duration_ms: Annotated[int, Field(ge=1, le=60_000)] = 500


class NoiseReduction(BaseModel):
    """Taken, and changes nothing."""

    type: Literal["near_field", "far_field"] | None = None
    strength: Annotated[float, Field(allow_inf_nan=False)] | None = None


class Transcription(BaseModel):
    """The model and its hints."""

    model: str | None = None
    language: str | None = None
    languages: list[str] | None = None
    prompt: Annotated[str, Field(max_length=10_000)] | None = None
    keywords: list[str] | None = None
    delay: str | None = None
    written: bool | dict[str, Any] | None = None  # of this gateway's own


class Input(BaseModel):
    """What comes in."""

    format: Format = Format()
    transcription: Transcription = Transcription()
    turn_detection: TurnDetection | None = TurnDetection()
    noise_reduction: NoiseReduction | None = None


class Audio(BaseModel):
    """Audio of a session."""

    input: Input = Input()


class SessionConfig(BaseModel):
    """All of it; immutable by use: `updated` makes another one."""

    type: Literal["transcription"] = "transcription"
    audio: Audio = Audio()
    include: list[str] | None = None

    def updated(self, given: Any, settings: Settings) -> "SessionConfig":
        """This configuration with what ``given`` names in its place. ApiError for what cannot be honoured."""
        if not isinstance(given, dict):
            raise ApiError(400, "session is missing: send it as an object", param="session")
        try:
            made = SessionConfig.model_validate(_merged(self.model_dump(), given))
        except ValidationError as error:
            raise _refusal(error) from None
        made.check(settings)
        return made

    def check(self, settings: Settings) -> None:
        """Raise ApiError for values that this gateway cannot honour."""
        hints, kind = self.audio.input.transcription, self.audio.input.format
        if hints.model is not None:
            check_model(hints.model, settings)
        for language in [hints.language, *(hints.languages or ())]:
            if language and language.lower() not in _KOREAN:
                raise _refused("transcription.language", f"{language[:60]!r}: this model knows Korean only")
        self.finish_options(settings)
        if kind.rate is not None and kind.rate != self.rate:
            raise _refused("format.rate", f"{kind.rate}: {kind.type} has {self.rate} Hz")
        if unknown := set(self.include or ()) - INCLUDABLE:
            sentence = f"include has {min(unknown)[:60]!r}: log-probabilities of tokens are not offered"
            raise ApiError(400, sentence, param="session.include", code="unsupported_parameter")

    @property
    def encoding(self) -> str:
        """The encoding by its name in live/encodings.py."""
        kinds = {"audio/pcm": "LINEAR16", "audio/pcmu": "MULAW", "audio/pcma": "ALAW"}
        return kinds[self.audio.input.format.type]

    @property
    def rate(self) -> int:
        """Of the samples, in Hz."""
        return PCM_RATE if self.audio.input.format.type == "audio/pcm" else G711_RATE

    @property
    def rules(self) -> EndpointRules:
        """Where utterances end."""
        detection = self.audio.input.turn_detection
        if detection is None:
            return _COMMITTED
        return EndpointRules(silence_after_speech_ms=float(detection.silence_duration_ms))

    @property
    def wanted(self) -> Keywords:
        """The words to favour. ApiError for an invalid keyword."""
        hints = self.audio.input.transcription
        return read_keywords(hints.keywords or (), hints.prompt or "")

    def finish_options(self, settings: Settings) -> FinishOptions | None:
        """How transcripts are written; None where they are as spoken. ApiError."""
        found = asked(self.audio.input.transcription.written, settings.written, WRITTEN)
        return found.options if found else None

    def to_json(self) -> dict[str, Any]:
        """The whole effective configuration."""
        found = self.model_dump()
        kind, hints = (found["audio"]["input"][name] for name in ("format", "transcription"))
        if hints["written"] is None:  # OpenAI has none
            del hints["written"]
        if kind["type"] == "audio/pcm":
            kind["rate"] = PCM_RATE
        else:
            del kind["rate"]
        return found


def _refusal(error: ValidationError) -> ApiError:
    """The refusal of a value that is of the wrong kind."""
    first = error.errors()[0]
    where = ".".join(["session", *map(str, first["loc"])])
    return ApiError(400, f"{where}: {first['msg']}", param=where, code="invalid_value")


def _refused(where: str, sentence: str) -> ApiError:
    return ApiError(400, f"{where} is {sentence}", param=f"{_WHERE}.{where}", code="invalid_value")


def _merged(current: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Objects are merged, other values replaced; a format is one value."""
    found = dict(current)
    for name, value in given.items():
        if name != "format" and isinstance(value, dict) and isinstance(found.get(name), dict):
            value = _merged(found[name], value)
        if name == "transcription" and value is None:
            value = {}
        found[name] = value
    return found
