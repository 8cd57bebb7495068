"""Transcripts in the shapes of OpenAI's API."""

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response

from ko_asr.gateway.api.openai.options import TranscriptionOptions
from ko_asr.gateway.engine.long_audio import Part, joined_text, transcript
from ko_asr.recognition import subtitles
from ko_asr.runtime.results import Result


def answer(found: Sequence[Part], seconds: float, options: TranscriptionOptions) -> Response:
    """The body of an answer that is no stream."""
    kind, text = options.response_format, joined_text(found)
    if kind == "text":
        return PlainTextResponse(f"{text}\n")
    if kind == "srt":
        return PlainTextResponse(subtitles.srt(transcript(found, seconds)), media_type="application/x-subrip")
    if kind == "vtt":
        return PlainTextResponse(subtitles.vtt(transcript(found, seconds)), media_type="text/vtt")
    body = {"text": text, "usage": usage(seconds)}
    return JSONResponse(body if kind == "json" else _verbose(body, found, seconds, options))


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


def _verbose(
    body: dict[str, Any], found: Sequence[Part], seconds: float, options: TranscriptionOptions
) -> dict[str, Any]:
    whole = transcript(found, seconds)
    body = {"task": "transcribe", "language": "korean", "duration": round(seconds, 3), **body}
    if "word" in options.granularities:
        body["words"] = [
            {"word": word.text, "start": word.start_ms / 1000, "end": word.end_ms / 1000}
            for word in whole.words
        ]
    if "segment" in options.granularities:
        body["segments"] = [_segment(number, result) for number, result in enumerate(whole.utterances)]
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
