"""Words in and words out of finishing: what a written word was made of, and its times and confidence."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ko_asr.finishing.draft import Draft


class Timed(Protocol):
    """A character with times, in ms."""

    @property
    def start_ms(self) -> int: ...
    @property
    def end_ms(self) -> int: ...


class SpokenWord(Protocol):
    """A word as the decoder gives it, such as `ko_asr.runtime.results.Word`. ``syllables`` may be empty."""

    @property
    def text(self) -> str: ...
    @property
    def start_ms(self) -> int: ...
    @property
    def end_ms(self) -> int: ...
    @property
    def confidence(self) -> float: ...
    @property
    def syllables(self) -> Sequence[Timed]: ...


class WrittenWord(NamedTuple):
    """A word of the written form; ``sources`` are the numbers of the spoken words that it came from.

    It lasts from the start of its first character's sound to the end of its last one's, in ms, and is as sure
    as the least sure of its sources. Both are None where the spoken words have no times.
    """

    text: str
    sources: tuple[int, ...]
    start_ms: int | None = None
    end_ms: int | None = None
    confidence: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        data: dict[str, Any] = {"text": self.text, "sources": list(self.sources)}
        if self.start_ms is not None and self.confidence is not None:
            data |= {
                "start_ms": self.start_ms,
                "end_ms": self.end_ms,
                "confidence": round(self.confidence, 4),
            }
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any], later_ms: int = 0) -> "WrittenWord":
        """Read what `to_json` gives, with times that begin ``later_ms`` later."""
        text, sources = data["text"], tuple(data["sources"])
        if "start_ms" not in data:
            return cls(text, sources)
        return cls(text, sources, data["start_ms"] + later_ms, data["end_ms"] + later_ms, data["confidence"])


class Written(NamedTuple):
    """The written form: its words joined by spaces are its text.

    ``dropped`` are the numbers of spoken words, such as fillers, that leave nothing; ``sentences`` and
    ``paragraphs`` those of the written words that begin one. Of a partial, the first ``stable`` characters
    stay in all later results of its utterance; None where nothing is to come.
    """

    text: str
    words: tuple[WrittenWord, ...]
    dropped: tuple[int, ...] = ()
    sentences: tuple[int, ...] = ()
    paragraphs: tuple[int, ...] = ()
    stable: int | None = None

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        data: dict[str, Any] = {
            "text": self.text,
            "words": [word.to_json() for word in self.words],
            "dropped": list(self.dropped),
            "sentences": list(self.sentences),
            "paragraphs": list(self.paragraphs),
        }
        return data if self.stable is None else data | {"stable": self.stable}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], later_ms: int = 0) -> "Written":
        """Read what `to_json` gives, with times that begin ``later_ms`` later."""
        words = tuple([WrittenWord.from_json(word, later_ms) for word in data["words"]])
        numbers = {name: tuple(data[name]) for name in ("dropped", "sentences", "paragraphs")}
        return cls(data["text"], words, stable=data.get("stable"), **numbers)


def written_words(
    draft: Draft, spoken: Sequence[SpokenWord] | None
) -> tuple[tuple[WrittenWord, ...], tuple[int, ...]]:
    """The words of a finished ``draft``, and the numbers of the spoken words that none of them came from."""
    if draft.text == draft.spoken:
        return tuple(_untouched(number, word, spoken) for number, word in enumerate(draft.words)), ()
    made = []
    left = set(range(len(draft.words)))
    for text, start, end, sources in draft.output_words():
        left.difference_update(sources)
        if spoken is None:
            made.append(WrittenWord(text, sources))
        else:
            made.append(_written(text, start, end, sources, draft.word_starts, spoken))
    return tuple(made), tuple(sorted(left))


def _untouched(number: int, text: str, spoken: Sequence[SpokenWord] | None) -> WrittenWord:
    if spoken is None:
        return WrittenWord(text, (number,))
    word = spoken[number]
    return WrittenWord(text, (number,), word.start_ms, word.end_ms, word.confidence)


def _written(
    text: str,
    start: int,
    end: int,
    sources: tuple[int, ...],
    starts: Sequence[int],
    spoken: Sequence[SpokenWord],
) -> WrittenWord:
    first, last = spoken[sources[0]], spoken[sources[-1]]
    began = _time(first, start - starts[sources[0]])
    ended = _time(last, end - starts[sources[-1]])
    confidence = min(spoken[number].confidence for number in sources)
    return WrittenWord(text, sources, began, max(began, ended), confidence)


def _time(word: SpokenWord, characters: int) -> int:
    """The time in ms after so many characters of a word: by its syllables, or where it has none evenly."""
    if characters <= 0:
        return word.start_ms
    if characters >= len(word.text):
        return word.end_ms
    if len(word.syllables) == len(word.text):
        return word.syllables[characters].start_ms
    return word.start_ms + round((word.end_ms - word.start_ms) * characters / len(word.text))
