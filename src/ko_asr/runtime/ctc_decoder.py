"""The common part of greedy decoding and beam search: settings, and the results of an utterance."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.endpoint import SILENCE_WITHOUT_SPEECH, Endpoint, EndpointRules
from ko_asr.runtime.results import Result, Word


@dataclass(frozen=True)
class DecoderSettings:
    """The model's side of decoding, the end-point rules, and the offset of all times.

    ``endpointing=None`` gives one utterance with exactly the text of the whole. `ko_asr.runtime.results`
    explains ``offset_ms``.
    """

    vocabulary: Vocabulary
    blank_id: int
    frame_ms: float  # ms an encoder frame covers
    endpointing: EndpointRules | None = None
    offset_ms: float = 0.0


class CtcDecoder(ABC):
    """One stream of frames on its way to results; subclasses hold the search. Not thread-safe.

    With end-point rules, what is final and where it ends depends on the frames alone, never on how they are
    divided into calls. ``partials`` and ``revised`` count the partials given, and those that were no longer a
    beginning of what followed them.
    """

    def __init__(self, settings: DecoderSettings) -> None:
        self.vocabulary, self.blank_id = settings.vocabulary, settings.blank_id
        self.frame_ms, self.offset_ms = settings.frame_ms, settings.offset_ms
        self.endpointing = settings.endpointing
        self.partials = self.revised = 0
        self._frame = 0  # frames accepted so far
        self._index = 0  # of the utterance
        self._origin = 0  # frame where listening for this utterance began
        self._shown = ""  # text of its last partial
        self._silence_reported = False  # by a final without speech, since the last token

    @abstractmethod
    def _speech(self) -> tuple[int | None, int | None]:
        """First frame of the utterance's first token, and the frame after its last; None before speech."""

    def _due(self) -> Endpoint | None:
        """The next end-point if only silence follows; None without rules."""
        if self.endpointing is None:
            return None
        return self.endpointing.due(self.frame_ms, self._origin, *self._speech())

    def _close(self, text: str, words: tuple[Word, ...], rule: str | None, frame: int) -> list[Result]:
        """The final of an utterance that ``rule`` ends at ``frame`` (None: the end of the audio)."""
        self.revised += not text.startswith(self._shown)
        final = self._result(text, words, frame, is_final=True, stable=len(text), endpoint=rule)
        self._index += 1
        self._silence_reported = rule == SILENCE_WITHOUT_SPEECH
        return [final]

    def _partial(self, text: str, words: tuple[Word, ...], stable: int) -> list[Result]:
        """The partial of a text that differs from the last one shown."""
        self.partials += 1
        self.revised += not text.startswith(self._shown)
        self._shown = text
        return [self._result(text, words, self._frame, is_final=False, stable=stable)]

    def _result(self, text: str, words: tuple[Word, ...], frame: int, **rest: Any) -> Result:
        start = words[0].start_ms if words else self._ms(self._origin)
        end = words[-1].end_ms if words else self._ms(frame)
        return Result(text, start_ms=start, end_ms=end, words=words, utterance=self._index, **rest)

    def _ms(self, frame: int) -> int:
        return max(0, round(frame * self.frame_ms + self.offset_ms))
