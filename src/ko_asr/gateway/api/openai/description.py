"""The shapes of OpenAI's requests and answers, for the OpenAPI description; `options` checks them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from ko_asr.gateway.api.description import TEXTS, File, Written, answers


class TranscriptionForm(BaseModel):
    """One file, and what the answer is to look like."""

    file: File = Field(description="The audio, with any file name.")
    model: str = Field(description="A name of GET /v1/models.")
    language: Literal["ko"] | None = Field(None, description="Korean is what there is.")
    prompt: str | None = Field(None, description="Its words are favoured.")
    keywords: list[str] | None = Field(None, alias="keywords[]", description="Words to favour.")
    response_format: Literal["json", "verbose_json", "text", "srt", "vtt"] = "json"
    timestamp_granularities: list[Literal["word", "segment"]] | None = Field(
        None, alias="timestamp_granularities[]", description="With verbose_json."
    )
    written: Written = None
    stream: bool = Field(False, description="Server-sent events instead, with json.")
    temperature: float | None = Field(None, description="Changes nothing.")
    chunking_strategy: Literal["auto"] | None = None


class Usage(BaseModel):
    """What was transcribed."""

    type: Literal["duration"]
    seconds: float


class Transcription(BaseModel):
    """json."""

    text: str
    written: str | None = None
    usage: Usage


class TranscribedWord(BaseModel):
    """A word; times in seconds, confidence in 0..1."""

    word: str
    start: float
    end: float
    confidence: float


class Segment(BaseModel):
    """An utterance; times in seconds."""

    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    written: str | None = None


class VerboseTranscription(Transcription):
    """verbose_json."""

    task: Literal["transcribe"]
    language: Literal["korean"]
    duration: float
    words: list[TranscribedWord] | None = None
    written_words: list[TranscribedWord] | None = None
    segments: list[Segment] | None = None


class Model(BaseModel):
    """A model by one of its names."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    """All names."""

    object: Literal["list"]
    data: list[Model]


TRANSCRIPTIONS: dict[int | str, Any] = answers(
    VerboseTranscription | Transcription, *TEXTS, "text/event-stream", errors=(404,)
)
