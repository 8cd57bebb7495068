"""Recognised parts as text in the database, and back."""

import json
from collections.abc import Sequence

from ko_asr.gateway.engine.long_audio import Part
from ko_asr.runtime.results import Word


def encode(parts: Sequence[Part]) -> str:
    """Parts as one JSON text."""
    return json.dumps(
        [[part.text, round(part.confidence, 6), [_word(word) for word in part.words]] for part in parts],
        ensure_ascii=False,
        separators=(",", ":"),
    )


def decode(body: str) -> list[Part]:
    """The parts of one JSON text; words have no syllables."""
    return [
        Part(text, tuple(Word(*word) for word in words), confidence)
        for text, confidence, words in json.loads(body)
    ]


def _word(word: Word) -> list[object]:
    return [word.text, word.start_ms, word.end_ms, round(word.confidence, 6)]
