"""What was said in one recording: the text, that of each channel, and utterances in order of time."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ko_asr.gateway.engine.long_audio import Part, confidence, in_utterances, joined_text
from ko_asr.runtime.results import Result, Word


@dataclass(frozen=True)
class Utterance:
    """What was said on ``channel``, counted from 0, between two pauses."""

    channel: int
    result: Result


@dataclass(frozen=True)
class SpokenWord:
    """A word and its channel."""

    channel: int
    word: Word


@dataclass(frozen=True)
class ChannelText:
    """What was said on one channel; ``written`` where that was asked for beside ``text``."""

    text: str
    confidence: float
    written: str | None = None


@dataclass(frozen=True)
class Heard:
    """A recording of ``seconds`` with its ``utterances`` in the order in which they begin.

    ``text`` of several channels is that of all utterances; ``written`` is None where it was not asked for.
    """

    seconds: float
    text: str
    confidence: float
    channels: tuple[ChannelText, ...]
    utterances: tuple[Utterance, ...]
    written: str | None = None

    @property
    def words(self) -> list[SpokenWord]:
        """The words of all channels, in the order in which they begin."""
        heard = [SpokenWord(one.channel, word) for one in self.utterances for word in one.result.words]
        return sorted(heard, key=lambda one: one.word.start_ms)

    def texts(self, separate: bool) -> dict[str, Any]:
        """The texts as answers tell them, with ``separate`` those of every channel as well."""
        found: dict[str, Any] = {"text": self.text, **_written(self)}
        if separate:
            found["channels"] = [
                {"channel": number, "text": one.text, **_written(one), "confidence": round(one.confidence, 4)}
                for number, one in enumerate(self.channels)
            ]
        return found


def _written(said: Heard | ChannelText) -> dict[str, str]:
    return {} if said.written is None else {"written": said.written}


def heard_of(parts: Sequence[Sequence[Part]], seconds: float) -> Heard:
    """What the parts of every channel are together."""
    utterances = in_order([in_utterances(word for part in one for word in part.words) for one in parts])
    texts = [joined_text(one) for one in parts]
    return Heard(
        seconds,
        texts[0] if len(parts) == 1 else joined(one.result.text for one in utterances),
        confidence([part for one in parts for part in one]),
        tuple(ChannelText(text, confidence(one)) for text, one in zip(texts, parts, strict=True)),
        utterances,
    )


def in_order(channels: Sequence[Sequence[Result]]) -> tuple[Utterance, ...]:
    """The utterances of all channels, in the order in which they begin."""
    spoken = [Utterance(number, result) for number, results in enumerate(channels) for result in results]
    return tuple(sorted(spoken, key=lambda one: one.result.start_ms))


def joined(texts: Iterable[str]) -> str:
    """Texts in one line; empty ones leave nothing."""
    return " ".join(text for text in texts if text)
