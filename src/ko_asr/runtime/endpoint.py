"""End-point rules: the end of an utterance, in ms of audio."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SILENCE_WITHOUT_SPEECH = "silence_without_speech"  # Kaldi's and sherpa-onnx's rule 1
SILENCE_AFTER_SPEECH = "silence_after_speech"  # their rule 2; RTZR's epd_time
MAX_UTTERANCE = "max_utterance"  # their rule 3; RTZR's max_utter_duration

LONGEST_MS = 86_400_000.0  # a day
WORD_BOUNDARY_FROM = 0.8  # of the longest utterance: from there on the first word boundary ends it


class Endpoint(NamedTuple):
    """The end of an utterance if no further token comes: its frame, and the rule that sets it."""

    frame: int
    rule: str


@dataclass(frozen=True)
class EndpointRules:
    """Limits of an utterance in ms of audio; None switches a rule off.

    ValueError when one is not above 0 and at most a day. Silence is the frames since the end of the last
    token. No utterance is longer than ``max_utterance_ms``; from four fifths of it on the first word
    boundary ends it, so that a word is cut only where one word fills the last fifth. The defaults are
    RTZR's and, without speech, sherpa-onnx's.
    """

    silence_after_speech_ms: float | None = 500.0
    silence_without_speech_ms: float | None = 2400.0
    max_utterance_ms: float | None = 12_000.0

    def __post_init__(self) -> None:
        times = [(name, value) for name, value in vars(self).items() if value is not None]
        if bad := [f"{name}={str(value)[:20]}" for name, value in times if not 0 < value <= LONGEST_MS]:
            raise ValueError(f"end-point times must be positive and at most a day in ms: {', '.join(bad)}")

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
        """True when a word that begins at frame ``start`` belongs to the next utterance already."""
        limit = self.max_utterance_ms
        return limit is not None and (start - first) * frame_ms >= WORD_BOUNDARY_FROM * limit
