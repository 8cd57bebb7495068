"""Transcripts in the shapes of OpenAI's API."""

import json
import math
import zlib
from collections.abc import Callable
from typing import Any

from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.responses import Response

from ko_asr.gateway.engine.heard import Heard
from ko_asr.gateway.options import TranscriptionOptions
from ko_asr.gateway.written.forms import written_words
from ko_asr.recognition import subtitles
from ko_asr.recognition.transcript import Transcript
from ko_asr.runtime.results import Result, Word

_PLAIN: dict[str, tuple[Callable[[Transcript, list[str]], str], str]] = {
    "srt": (subtitles.srt, "application/x-subrip"),
    "vtt": (subtitles.vtt, "text/vtt"),
}


def answer(heard: Heard, options: TranscriptionOptions) -> Response:
    """The body of an answer that is no stream."""
    kind, separate = options.response_format, options.audio.separate
    if kind in _PLAIN:
        subtitles_of, media_type = _PLAIN[kind]
        whole = Transcript("", heard.seconds, tuple(one.result for one in heard.utterances))
        labels = [f"[{one.channel}]" for one in heard.utterances] if separate else []
        return PlainTextResponse(subtitles_of(whole, labels), media_type=media_type)
    if kind == "text":
        return PlainTextResponse(_lines(heard) if separate else f"{_shown(heard)}\n")
    body = heard.texts(separate and kind == "json") | {"usage": usage(heard.seconds * len(heard.channels))}
    return JSONResponse(body if kind == "json" else _verbose(body, heard, options))


def _shown(heard: Heard) -> str:
    """The text of an answer that has room for one form only."""
    return heard.text if heard.written is None else heard.written


def _lines(heard: Heard) -> str:
    """A line an utterance, with its channel."""
    texts = [(one.channel, (one.result.written or one.result).text) for one in heard.utterances]
    return "".join(f"[{channel}] {text}\n" for channel, text in texts if text)


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


def _verbose(body: dict[str, Any], heard: Heard, options: TranscriptionOptions) -> dict[str, Any]:
    def of(channel: int) -> dict[str, int]:
        return {"channel": channel} if options.audio.separate else {}

    body = {"task": "transcribe", "language": "korean", "duration": round(heard.seconds, 3), **body}
    if "word" in options.granularities:
        body["words"] = [word_json(one.word) | of(one.channel) for one in heard.words]
        if heard.written is not None:
            body["written_words"] = [word_json(one.word) | of(one.channel) for one in written_words(heard)]
    if "segment" in options.granularities:
        body["segments"] = [
            _segment(number, one.result, heard.written is not None) | of(one.channel)
            for number, one in enumerate(heard.utterances)
        ]
    return body


def _segment(number: int, result: Result, both: bool) -> dict[str, Any]:
    """One utterance. What Whisper has and a CTC model has not is 0 or empty (docs/gateway.md)."""
    data = result.text.encode()
    logs = [math.log(max(word.confidence, 1e-4)) for word in result.words]
    beside = {"written": result.written.text} if both and result.written else {}
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
        **beside,
    }
