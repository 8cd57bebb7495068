"""Transcripts as files: plain text, JSON, JSON lines, SubRip and WebVTT subtitles.

A transcript that has a written form is shown in it; JSON holds both.
"""

import html
import json
from collections.abc import Sequence
from typing import Any

from ko_asr.recognition.cues import RULES, CueRules, cues
from ko_asr.recognition.transcript import Transcript
from ko_asr.runtime.results import Result


def _clock(ms: int, separator: str) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{separator}{rest:03}"


def srt(transcript: Transcript, labels: Sequence[str] = (), rules: CueRules = RULES) -> str:
    """SubRip: numbered cues, times with a comma; the rest as for `cues`."""
    return "".join(
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
        + "\n".join(cue.lines)
        + "\n\n"
        for number, cue in enumerate(cues(transcript, labels, rules), 1)
    )


def vtt(transcript: Transcript, labels: Sequence[str] = (), rules: CueRules = RULES) -> str:
    """WebVTT (W3C): times with a point, &, < and > escaped; the rest as for `cues`."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n"
        + html.escape("\n".join(cue.lines), quote=False)
        + "\n\n"
        for cue in cues(transcript, labels, rules)
    )


def txt(transcript: Transcript) -> str:
    """One utterance a line; with paragraphs one of these a line, and an empty line between them."""
    if transcript.paragraphs:
        return "\n\n".join(transcript.paragraphs) + "\n"
    texts = [(result.written or result).text for result in transcript.utterances]
    return "".join(" ".join(text.split()) + "\n" for text in texts if text)


def as_json(transcript: Transcript) -> str:
    """One object: file, duration, text, and the utterances with their words and syllables."""
    written: dict[str, Any] = {} if transcript.written is None else {"written": transcript.written}
    if transcript.paragraphs:
        written["paragraphs"] = transcript.paragraphs
    data = {
        "file": transcript.file,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        **written,
        "utterances": [_utterance(result) for result in transcript.utterances],
    }
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def jsonl(transcript: Transcript) -> str:
    """One line of JSON an utterance."""
    return "".join(
        json.dumps({"file": transcript.file} | _utterance(result), ensure_ascii=False) + "\n"
        for result in transcript.utterances
    )


def _utterance(result: Result) -> dict:
    data = result.to_json(syllables=True)
    return {key: value for key, value in data.items() if key not in ("is_final", "stable", "utterance")}


FORMATS = {"txt": txt, "json": as_json, "jsonl": jsonl, "srt": srt, "vtt": vtt}
SUBTITLES = {"srt": srt, "vtt": vtt}
