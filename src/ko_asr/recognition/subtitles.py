"""Transcripts as files: plain text, JSON, JSON lines, SubRip and WebVTT subtitles.

Subtitles follow what Korean television and streaming services publish as their rule: at most two lines of
about 16 syllables, and words (어절) never split.
"""

import html
import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ko_asr.recognition.transcript import Transcript
from ko_asr.runtime.results import Result, Word

LINE = 16  # characters a line
LINES = 2
LONGEST_CUE = 7000  # ms
SHORTEST_CUE = 800  # ms, unless the next one comes sooner


class Cue(NamedTuple):
    """One subtitle: times in ms and lines of text."""

    start_ms: int
    end_ms: int
    lines: list[str]


def cues(transcript: Transcript, labels: Sequence[str] = ()) -> list[Cue]:
    """A new subtitle at each utterance, and where two lines or seven seconds are full.

    ``labels``, one an utterance, stand before each of its subtitles and tell who speaks.
    """
    labels = labels or [""] * len(transcript.utterances)
    groups = [
        (group, label)
        for result, label in zip(transcript.utterances, labels, strict=True)
        for group in _groups(result.words)
    ]
    groups.sort(key=lambda pair: pair[0][0].start_ms)  # speakers may interrupt each other
    starts = [group[0].start_ms for group, _ in groups[1:]] + [round(1000 * transcript.duration)]
    found = []
    for (group, label), following in zip(groups, starts, strict=True):
        start, end = group[0].start_ms, group[-1].end_ms
        first, *more = _lines(group)
        lines = [f"{label} {first}".lstrip(), *more]
        found.append(Cue(start, max(end, min(start + SHORTEST_CUE, following)), lines))
    return found


def _groups(words: Sequence[Word]) -> Iterator[list[Word]]:
    group: list[Word] = []
    for word in words:
        full = len(_lines([*group, word])) > LINES
        if group and (full or word.end_ms - group[0].start_ms > LONGEST_CUE):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _lines(words: Sequence[Word]) -> list[str]:
    text = " ".join(word.text for word in words)
    return textwrap.wrap(text, LINE, break_long_words=False, break_on_hyphens=False)


def _clock(ms: int, separator: str) -> str:
    seconds, rest = divmod(ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{separator}{rest:03}"


def srt(transcript: Transcript, labels: Sequence[str] = ()) -> str:
    """SubRip: numbered cues, times with a comma; ``labels`` as for `cues`."""
    return "".join(
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
        + "\n".join(cue.lines)
        + "\n\n"
        for number, cue in enumerate(cues(transcript, labels), 1)
    )


def vtt(transcript: Transcript, labels: Sequence[str] = ()) -> str:
    """WebVTT (W3C): times with a point, &, < and > escaped; ``labels`` as for `cues`."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n"
        + html.escape("\n".join(cue.lines), quote=False)
        + "\n\n"
        for cue in cues(transcript, labels)
    )


def txt(transcript: Transcript) -> str:
    """One utterance a line."""
    return "".join(" ".join(result.text.split()) + "\n" for result in transcript.utterances)


def as_json(transcript: Transcript) -> str:
    """One object: file, duration, text, and the utterances with their words and syllables."""
    data = {
        "file": transcript.file,
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
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
