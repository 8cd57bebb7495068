"""Results of CTC frames: partials and finals, words with times and confidence.

Runs inside the server, so it needs numpy and modules without dependencies only.

Time. Encoder frame k lies at ``k * frame_ms + offset_ms``; a syllable lasts from the first frame of its first
token to the end of the last frame of its last one, and a word (어절) from its first syllable to its last.
``frame_ms`` is hop x subsampling. A frame's centre is at ``k * frame_ms`` in a model with symmetric
subsampling, and ``(subsampling - 1) * hop`` earlier in one with causal subsampling; but CTC is free to emit a
token later than it is spoken, which is the larger part. ``offset_ms``, usually negative, takes both back:
only a measurement on the model gives it (bench/long_audio.py makes one), so its default is 0.

Confidence. A token has the probability of its best frame; a word is as sure as its least sure token, the
space before it included. On the noisy synthetic demo (bench/confidence.py: AUROC 0.85, expected calibration
error 0.04) this tells right words from wrong ones far better than measures of frames, blanks or not,
the entropies of Laptev and Ginsburg 2022 (arXiv:2212.08703) among them. The mean over tokens ranks as well
but is four times worse calibrated; their product is equal in both, but falls with the length of the word.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any, Protocol

import numpy as np

from ko_asr.finishing.words import Written
from ko_asr.runtime import hangul
from ko_asr.runtime.ctc import Character, Token, Vocabulary

REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class Syllable:
    """One character of a word; times in ms from the start of the audio, confidence in 0..1."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Word:
    """The text between two spaces (어절), with its syllables; times in ms, confidence in 0..1."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float
    syllables: tuple[Syllable, ...] = field(default=(), repr=False)

    def to_json(self, syllables: bool = False) -> dict[str, Any]:
        """A dictionary of plain JSON values, with the syllables when asked for."""
        data: dict[str, Any] = {
            "text": self.text,
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "confidence": round(self.confidence, 4),
        }
        if syllables:
            data["syllables"] = [
                asdict(part) | {"confidence": round(part.confidence, 4)} for part in self.syllables
            ]
        return data


@dataclass(frozen=True, slots=True)
class Result:
    """One utterance so far: a partial, or the final after which its text never changes.

    ``text`` is exactly `Vocabulary.text` of the utterance's tokens; its words are ``text.split()``. The first
    ``stable`` characters of a partial stand in every later result of the same ``utterance`` (counted from 0).
    ``endpoint`` names the rule that ended it, None where the audio ended or for a partial. ``written`` is its
    written form where that was asked for; a partial's has a ``stable`` of its own.
    """

    text: str
    is_final: bool
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] = ()
    stable: int = 0
    endpoint: str | None = None
    utterance: int = 0
    written: Written | None = None

    @property
    def confidence(self) -> float:
        """Mean confidence of the words; 0 where there is none."""
        return sum(word.confidence for word in self.words) / len(self.words) if self.words else 0.0

    def to_json(self, syllables: bool = False) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        data: dict[str, Any] = {
            "text": self.text,
            "is_final": self.is_final,
            "start_ms": self.start_ms,
            "end_ms": self.end_ms,
            "confidence": round(self.confidence, 4),
            "stable": self.stable,
            "endpoint": self.endpoint,
            "utterance": self.utterance,
            "words": [word.to_json(syllables) for word in self.words],
        }
        return data if self.written is None else data | {"written": self.written.to_json()}


class Decoder(Protocol):
    """Frames to results; greedy here, beam search elsewhere."""

    @property
    def partials(self) -> int:
        """The partials given."""
        ...

    @property
    def revised(self) -> int:
        """Those of them that were no beginning of what followed."""
        ...

    def accept(self, ids: np.ndarray, log_probs: np.ndarray) -> list[Result]:
        """Take the next frames' best tokens, int32 [T, K] and float32 [T, K], best first."""
        ...

    def finish(self) -> list[Result]:
        """End the audio: the final of what is left."""
        ...


def words(
    tokens: Sequence[Token],
    vocabulary: Vocabulary,
    frame_ms: float,
    offset_ms: float = 0.0,
    at_start: bool = True,
) -> list[Word]:
    """The words of emitted tokens (`ctc.collapse`): their texts are ``vocabulary.text(ids).split()``.

    ``at_start=False`` for tokens that continue a text. A word is never split inside, whatever the tokens are:
    jamo, pieces of jamo, syllables or sub-words.

    >>> from ko_asr.runtime.ctc import Token
    >>> pieces = Vocabulary(("<unk>", "▁닭", "이", "▁온다"))
    >>> tokens = [Token(1, 2, 3, -0.1), Token(2, 4, 6, 0.0), Token(3, 9, 10, -0.2)]
    >>> [(word.text, word.start_ms, word.end_ms) for word in words(tokens, pieces, 80.0)]
    [('닭이', 160, 480), ('온다', 720, 800)]
    """
    found: list[Word] = []
    open_word: list[Character] = []
    counted = 0  # tokens before this one are in an earlier word's confidence
    for char in [*vocabulary.characters((token.id for token in tokens), at_start), None]:
        if char is not None and not char.text.isspace():
            open_word.append(char)
        elif open_word:
            found.append(_word(open_word, tokens, counted, frame_ms, offset_ms))
            counted, open_word = open_word[-1].last + 1, []
    return found


def _word(
    chars: Sequence[Character], tokens: Sequence[Token], counted: int, frame_ms: float, offset_ms: float
) -> Word:
    def ms(frame: int) -> int:
        return max(0, round(frame * frame_ms + offset_ms))

    def confidence(first: int, last: int) -> float:
        return math.exp(min(token.log_prob for token in tokens[first : last + 1]))

    syllables = tuple(
        Syllable(
            char.text,
            ms(tokens[char.first].start),
            ms(tokens[char.last].end),
            confidence(char.first, char.last),
        )
        for char in chars
    )
    text = "".join(char.text for char in chars)
    first = min(counted, chars[0].first)
    return Word(
        text,
        syllables[0].start_ms,
        syllables[-1].end_ms,
        confidence(first, chars[-1].last),
        syllables,
    )


def silent_end(tokens: Sequence[Token], vocabulary: Vocabulary) -> list[Token]:
    """The control pieces at the end: `words` counts them with the word that follows, yet to come."""
    return list(takewhile(lambda token: token.id in vocabulary.silent, reversed(tokens)))[::-1]


def stable_length(text: str, rule: str) -> int:
    """Count the characters of ``text`` that no following token can change; ``rule`` is the vocabulary's.

    A syllable without a coda may still get one (가 + ㄱ = 각), a letter may become a syllable, and bytes that
    are no character yet may become one.

    >>> stable_length("다가", "compose"), stable_length("다각", "compose"), stable_length("다가", "identity")
    (1, 2, 2)
    """
    if text.endswith(REPLACEMENT):
        return len(text.rstrip(REPLACEMENT))
    if rule == "identity" or not text:
        return len(text)
    last = text[-1]
    may_grow = (
        not hangul.coda(last) if hangul.is_syllable(last) else last in hangul.ONSETS + hangul.COMPAT_JAMO
    )
    return len(text) - may_grow
