"""Transcripts in the shapes of OpenAI's API."""

import json
import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response

from ko_asr.gateway.engine.channels import Utterance, channels_of, text_of, utterances, words
from ko_asr.gateway.engine.long_audio import Part
from ko_asr.gateway.options import TranscriptionOptions
from ko_asr.recognition import subtitles
from ko_asr.recognition.transcript import Transcript
from ko_asr.runtime.results import Result, Word

_PLAIN: dict[str, tuple[Callable[[Transcript, list[str]], str], str]] = {
    "srt": (subtitles.srt, "application/x-subrip"),
    "vtt": (subtitles.vtt, "text/vtt"),
}


def answer(found: Sequence[Sequence[Part]], seconds: float, options: TranscriptionOptions) -> Response:
    """The body of an answer that is no stream; ``found`` has the parts of every channel."""
    kind, text, separate = options.response_format, text_of(found, seconds), options.audio.separate
    if kind == "text" and not separate:
        return PlainTextResponse(f"{text}\n")
    body = {"text": text, "usage": usage(seconds * len(found))}
    if kind == "json":
        return JSONResponse(body | channels_of(found) if separate else body)
    spoken = utterances(found, seconds)
    if kind == "text":
        return PlainTextResponse("".join(f"[{one.channel}] {one.result.text}\n" for one in spoken))
    if kind in _PLAIN:
        written, media_type = _PLAIN[kind]
        whole = Transcript("", seconds, tuple(one.result for one in spoken))
        labels = [f"[{one.channel}]" for one in spoken] if separate else []
        return PlainTextResponse(written(whole, labels), media_type=media_type)
    return JSONResponse(_verbose(body, spoken, seconds, options))


def usage(seconds: float) -> dict[str, Any]:
    """What was transcribed."""
    return {"type": "duration", "seconds": round(seconds, 3)}


def event(data: dict[str, Any]) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


def delta(text: str) -> str:
    """The event of text that follows."""
    return event({"type": "transcript.text.delta", "delta": text})


def done(text: str, seconds: float) -> str:
    """The event of the whole text."""
    return event({"type": "transcript.text.done", "text": text, "usage": usage(seconds)})


def word_json(word: Word) -> dict[str, Any]:
    """A word. OpenAI's has no confidence; its SDK keeps what is more."""
    return {
        "word": word.text,
        "start": word.start_ms / 1000,
        "end": word.end_ms / 1000,
        "confidence": round(word.confidence, 4),
    }


def _verbose(
    body: dict[str, Any], spoken: Sequence[Utterance], seconds: float, options: TranscriptionOptions
) -> dict[str, Any]:
    def of(channel: int) -> dict[str, int]:
        return {"channel": channel} if options.audio.separate else {}

    body = {"task": "transcribe", "language": "korean", "duration": round(seconds, 3), **body}
    if "word" in options.granularities:
        body["words"] = [word_json(one.word) | of(one.channel) for one in words(spoken)]
    if "segment" in options.granularities:
        body["segments"] = [
            _segment(number, one.result) | of(one.channel) for number, one in enumerate(spoken)
        ]
    return body


def _segment(number: int, result: Result) -> dict[str, Any]:
    """One utterance. What Whisper has and a CTC model has not is 0 or empty (docs/gateway.md)."""
    data = result.text.encode()
    logs = [math.log(max(word.confidence, 1e-4)) for word in result.words]
    return {
        "id": number,
        "seek": 0,
        "start": result.start_ms / 1000,
        "end": result.end_ms / 1000,
        "text": result.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(logs) / len(logs), 4),
        "compression_ratio": round(len(data) / len(zlib.compress(data)), 4),
        "no_speech_prob": 0.0,
    }
