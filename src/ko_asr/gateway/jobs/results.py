"""Recognised parts as text in the database, and back."""

import json
from collections.abc import Iterable, Sequence

from ko_asr.gateway.engine.long_audio import Part
from ko_asr.runtime.results import Word


def encode(channels: Sequence[Sequence[Part]]) -> str:
    """The parts of every channel as one JSON text."""
    return json.dumps(
        [[_part(part) for part in parts] for parts in channels], ensure_ascii=False, separators=(",", ":")
    )


def decode(bodies: Iterable[str]) -> list[list[Part]]:
    """The parts of every channel of JSON texts that follow each other; words have no syllables."""
    found: list[list[Part]] = []
    for body in bodies:
        for number, parts in enumerate(json.loads(body)):
            if number == len(found):
                found.append([])
            found[number] += [
                Part(text, tuple(Word(*word) for word in words), confidence)
                for text, confidence, words in parts
            ]
    return found


def _part(part: Part) -> list[object]:
    words = [[word.text, word.start_ms, word.end_ms, round(word.confidence, 6)] for word in part.words]
    return [part.text, round(part.confidence, 6), words]
