"""Greedy CTC decoding of a stream of frames."""

import numpy as np

from ko_asr.runtime.ctc import Token, Vocabulary, collapse
from ko_asr.runtime.ctc_decoder import CtcDecoder, DecoderSettings
from ko_asr.runtime.endpoint import MAX_UTTERANCE, SILENCE_WITHOUT_SPEECH
from ko_asr.runtime.results import Result, Word, silent_end, stable_length, words


class _Utterance:
    """The tokens of one utterance: settled words, and those since the last word boundary.

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
        """Let the last token hold on to frame ``end`` (not included)."""
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


class GreedyDecoder(CtcDecoder):
    """Greedy CTC over a stream of frames."""

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__(settings)
        self._last_id = self.blank_id
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
                results += self._at_silence(end)
            elif token.id == self._last_id and token.start == 0:
                self._utterance.extend(end, token.log_prob)
            else:
                results += self._at_token(token.id, start)
                self._utterance.add(token._replace(start=start, end=end))
            self._last_id = token.id
        self._frame += len(best)
        return results + self._changed()

    def finish(self) -> list[Result]:
        """The final of what no end-point has ended, if there is anything or if there was no result at all."""
        final = self._end(None, self._frame) if self._utterance.text().strip() or not self._index else []
        self._last_id = self.blank_id
        return final

    def _speech(self) -> tuple[int | None, int | None]:
        return self._utterance.first, self._utterance.last

    def _at_silence(self, until: int) -> list[Result]:
        """End the utterances whose end-points lie in a run of blanks up to frame ``until`` (not included)."""
        results: list[Result] = []
        while (due := self._due()) and due.frame <= until:
            # Reported once a silence, not every few seconds of it.
            if due.rule == SILENCE_WITHOUT_SPEECH and self._silence_reported:
                break
            results += self._end(due.rule, due.frame)
        return results

    def _at_token(self, token: int, start: int) -> list[Result]:
        """End the utterance where the next token, at frame ``start``, would make it too long."""
        first, due = self._utterance.first, self._due()
        if first is None or due is None or self.endpointing is None:
            return []
        word = self.vocabulary.begins_word(token)
        if due.frame <= start or (word and self.endpointing.ends_before_word(self.frame_ms, first, start)):
            return self._end(MAX_UTTERANCE, start)
        return []

    def _end(self, rule: str | None, frame: int) -> list[Result]:
        """End the utterance with its final; the next one begins at ``frame``."""
        results = self._close(self._utterance.text(), self._utterance.words(), rule, frame)
        self._begin(frame)
        return results

    def _changed(self) -> list[Result]:
        """A partial where the text has changed."""
        text = self._utterance.text()
        if text == self._shown:
            return []
        return self._partial(text, self._utterance.words(), stable_length(text, self.vocabulary.rule))
