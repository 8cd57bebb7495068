"""What a product needs from CTC frames: partials and finals, end-points, words with times and confidence.

Runs inside the server, so it needs numpy, ``ko_asr.ctc`` and ``ko_asr.hangul`` only.

Time. Encoder frame k lies at ``k * frame_ms + offset_ms``; a syllable lasts from the first frame of its first
token to the end of the last frame of its last one, and a word (어절) from its first syllable to its last.
``frame_ms`` is hop x subsampling. A frame's centre is at ``k * frame_ms`` in a model with symmetric
subsampling, and ``(subsampling - 1) * hop`` earlier in one with causal subsampling; but CTC is free to emit a
token later than it is spoken, which is the larger part. ``offset_ms``, usually negative, takes both back:
only a measurement on the model gives it (bench/long_audio.py makes one), so it is 0 unless the caller says.

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
from typing import Any, NamedTuple, Protocol

import numpy as np

from ko_asr import hangul
from ko_asr.ctc import Character, Token, Vocabulary, collapse

SILENCE_WITHOUT_SPEECH = "silence_without_speech"  # Kaldi's and sherpa-onnx's rule 1
SILENCE_AFTER_SPEECH = "silence_after_speech"  # their rule 2; RTZR's epd_time
MAX_UTTERANCE = "max_utterance"  # their rule 3; RTZR's max_utter_duration
WORD_BOUNDARY_FROM = 0.8  # of the longest utterance: from there on the first word boundary ends it
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
    """What stands between spaces (어절), with its syllables; times in ms, confidence in 0..1."""

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
    """What is known of one utterance: a partial, or the final after which its text never changes.

    ``text`` is exactly `Vocabulary.text` of the utterance's tokens; its words are ``text.split()``. The first
    ``stable`` characters of a partial stand in every later result of the same ``utterance`` (counted from 0).
    ``endpoint`` names the rule that ended it, None where the audio ended or for a partial.
    """

    text: str
    is_final: bool
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] = ()
    stable: int = 0
    endpoint: str | None = None
    utterance: int = 0

    @property
    def confidence(self) -> float:
        """Mean confidence of the words; 0 where there is none."""
        return float(np.mean([word.confidence for word in self.words])) if self.words else 0.0

    def to_json(self, syllables: bool = False) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        return {
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


class Endpoint(NamedTuple):
    """Where an utterance ends if no further token comes: a frame, and the rule that says so."""

    frame: int
    rule: str


@dataclass(frozen=True)
class EndpointRules:
    """When an utterance ends, in ms of audio; None switches a rule off. ValueError when one is not positive.

    Silence is what the model hears as such: frames since the end of the last token. No utterance is longer
    than ``max_utterance_ms``; from four fifths of it on the first word boundary ends it, so that a word is
    cut only where one word fills the last fifth. The defaults are RTZR's and, without speech, sherpa-onnx's.
    """

    silence_after_speech_ms: float | None = 500.0
    silence_without_speech_ms: float | None = 2400.0
    max_utterance_ms: float | None = 12_000.0

    def __post_init__(self) -> None:
        if bad := [
            f"{name}={value}" for name, value in vars(self).items() if value is not None and value <= 0
        ]:
            raise ValueError(f"end-point times must be positive: {', '.join(bad)}")

    def due(self, frame_ms: float, origin: int, first: int | None, last: int | None) -> Endpoint | None:
        """The next end-point if only silence follows.

        ``origin`` is the frame where listening for this utterance began, ``first`` the first frame of its
        first token and ``last`` the frame after its last (both None before speech).

        >>> EndpointRules().due(40.0, 0, 100, 120)
        Endpoint(frame=133, rule='silence_after_speech')
        """
        found = []
        for rule, since, limit in (
            (SILENCE_WITHOUT_SPEECH, origin if first is None else None, self.silence_without_speech_ms),
            (SILENCE_AFTER_SPEECH, last, self.silence_after_speech_ms),
            (MAX_UTTERANCE, first, self.max_utterance_ms),
        ):
            if since is not None and limit is not None:
                found.append(Endpoint(since + int(np.ceil(limit / frame_ms)), rule))
        return min(found, default=None)

    def ends_before_word(self, frame_ms: float, first: int, start: int) -> bool:
        """Whether a word that begins at frame ``start`` belongs to the next utterance already."""
        limit = self.max_utterance_ms
        return limit is not None and (start - first) * frame_ms >= WORD_BOUNDARY_FROM * limit


class Decoder(Protocol):
    """Frames to results; greedy here, beam search elsewhere."""

    def accept(self, ids: np.ndarray, log_probs: np.ndarray) -> list[Result]:
        """The next frames' best tokens, int32 [T, K] and float32 [T, K], best first."""
        ...

    def finish(self) -> list[Result]:
        """No more frames: the final of what is left."""
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

    >>> from ko_asr.ctc import Token
    >>> pieces = Vocabulary(("<unk>", "▁닭", "이", "▁온다"))
    >>> tokens = [Token(1, 2, 3, -0.1), Token(2, 4, 6, 0.0), Token(3, 9, 10, -0.2)]
    >>> [(word.text, word.start_ms, word.end_ms) for word in words(tokens, pieces, 80.0)]
    [('닭이', 160, 480), ('온다', 720, 800)]
    """
    found: list[Word] = []
    open_word: list[Character] = []
    heard = 0  # tokens before this one are counted in an earlier word's confidence
    for char in [*vocabulary.characters((token.id for token in tokens), at_start), None]:
        if char is not None and not char.text.isspace():
            open_word.append(char)
        elif open_word:
            found.append(_word(open_word, tokens, heard, frame_ms, offset_ms))
            heard, open_word = open_word[-1].last + 1, []
    return found


def _word(
    chars: Sequence[Character], tokens: Sequence[Token], heard: int, frame_ms: float, offset_ms: float
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
    first = min(heard, chars[0].first)
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
    """How many characters of ``text`` no following token can change; ``rule`` is the vocabulary's.

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


class _Utterance:
    """The tokens of one utterance: words that are settled, and those since the last word boundary.

    Only the tokens since the boundary are spelled again when one is added, so that an utterance of an hour
    costs no more a frame than a short one.
    """

    def __init__(self, vocabulary: Vocabulary, frame_ms: float, offset_ms: float) -> None:
        self._vocabulary, self._frame_ms, self._offset_ms = vocabulary, frame_ms, offset_ms
        self._text = ""
        self._words: list[Word] = []
        self._tail: list[Token] = []
        self.first: int | None = None  # first frame of the first token, once there is something to read

    @property
    def last(self) -> int | None:
        """The frame after the last token; None before speech."""
        return self._tail[-1].end if self.first is not None else None

    def add(self, token: Token) -> None:
        """Append a token."""
        if self._vocabulary.begins_word(token.id) and (settled := self._tail_words()):
            self._words += settled
            self._text += self._tail_text()
            self._tail = silent_end(self._tail, self._vocabulary)
        self._tail.append(token)
        if self.first is None and self._tail_text().strip():
            self.first = token.start

    def extend(self, end: int, log_prob: float) -> None:
        """The last token holds on to frame ``end`` (not included)."""
        token = self._tail[-1]
        self._tail[-1] = token._replace(end=end, log_prob=max(token.log_prob, log_prob))

    def _tail_text(self) -> str:
        return self._vocabulary.text((token.id for token in self._tail), not self._text)

    def _tail_words(self) -> list[Word]:
        return words(self._tail, self._vocabulary, self._frame_ms, self._offset_ms, not self._text)

    def text(self) -> str:
        return self._text + self._tail_text()

    def words(self) -> tuple[Word, ...]:
        return (*self._words, *self._tail_words())


class GreedyDecoder:
    """Greedy CTC over a stream of frames. Not for several threads at once.

    ``endpointing=None`` gives one utterance with exactly the text of the whole. With rules, what is final and
    where it ends depends on the frames alone, never on how they are divided into calls.
    ``partials`` and ``revised`` count the partials given, and those that were no longer a beginning of what
    followed them.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        blank_id: int,
        frame_ms: float,
        endpointing: EndpointRules | None = None,
        offset_ms: float = 0.0,
    ) -> None:
        self.vocabulary, self.blank_id, self.frame_ms = vocabulary, blank_id, frame_ms
        self.endpointing, self.offset_ms = endpointing, offset_ms
        self.partials = self.revised = 0
        self._frame = 0  # frames accepted so far
        self._last_id = blank_id
        self._index = 0
        self._told_silence = False
        self._begin(0)

    def _begin(self, origin: int) -> None:
        self._origin, self._shown = origin, ""
        self._utterance = _Utterance(self.vocabulary, self.frame_ms, self.offset_ms)

    def accept(self, ids: np.ndarray, log_probs: np.ndarray) -> list[Result]:
        """Take the next frames, int [T, K] or [T] and float of the same shape; column 0 is the best token.

        Returns finals, and last a partial when the text has changed.
        """
        best, scores = (a if a.ndim == 1 else a[:, 0] for a in (np.asarray(ids), np.asarray(log_probs)))
        results: list[Result] = []
        for token in collapse(best, -1, scores):  # -1: runs of blanks are wanted as well
            start, end = self._frame + token.start, self._frame + token.end
            if token.id == self.blank_id:
                results += self._silence(end)
            elif token.id == self._last_id and token.start == 0:
                self._utterance.extend(end, token.log_prob)
            else:
                results += self._before(token.id, start)
                self._utterance.add(token._replace(start=start, end=end))
            self._last_id = token.id
        self._frame += len(best)
        return results + self._partial()

    def finish(self) -> list[Result]:
        """The final of what no end-point has ended, if there is anything or if there was no result at all."""
        final = self._close(None, self._frame) if self._utterance.text().strip() or not self._index else []
        self._last_id = self.blank_id
        return final

    def _due(self) -> Endpoint | None:
        if self.endpointing is None:
            return None
        return self.endpointing.due(self.frame_ms, self._origin, self._utterance.first, self._utterance.last)

    def _silence(self, until: int) -> list[Result]:
        """Blank up to frame ``until`` (not included)."""
        results: list[Result] = []
        while (due := self._due()) and due.frame <= until:
            if due.rule == SILENCE_WITHOUT_SPEECH and self._told_silence:
                break  # said once a silence, not every few seconds of it
            results += self._close(due.rule, due.frame)
        return results

    def _before(self, token: int, start: int) -> list[Result]:
        """End the utterance where the next token, at frame ``start``, would make it too long."""
        first, due = self._utterance.first, self._due()
        if first is None or due is None or self.endpointing is None:
            return []
        word = self.vocabulary.begins_word(token)
        if due.frame <= start or (word and self.endpointing.ends_before_word(self.frame_ms, first, start)):
            return self._close(MAX_UTTERANCE, start)
        return []

    def _close(self, rule: str | None, frame: int) -> list[Result]:
        text, found = self._utterance.text(), self._utterance.words()
        self.revised += not text.startswith(self._shown)
        result = self._result(text, found, frame, is_final=True, stable=len(text), endpoint=rule)
        self._index += 1
        self._told_silence = rule == SILENCE_WITHOUT_SPEECH
        self._begin(frame)
        return [result]

    def _partial(self) -> list[Result]:
        text = self._utterance.text()
        if text == self._shown:
            return []
        self.partials += 1
        self.revised += not text.startswith(self._shown)
        self._shown = text
        stable = stable_length(text, self.vocabulary.rule)
        return [self._result(text, self._utterance.words(), self._frame, is_final=False, stable=stable)]

    def _result(self, text: str, found: tuple[Word, ...], frame: int, **rest: Any) -> Result:
        start = found[0].start_ms if found else max(0, round(self._origin * self.frame_ms + self.offset_ms))
        end = found[-1].end_ms if found else max(0, round(frame * self.frame_ms + self.offset_ms))
        return Result(text, start_ms=start, end_ms=end, words=found, utterance=self._index, **rest)
