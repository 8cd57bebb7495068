"""Greedy CTC decoding of a stream of frames."""

from typing import Any

import numpy as np

from ko_asr.runtime.ctc import Token, Vocabulary, collapse
from ko_asr.runtime.endpoint import MAX_UTTERANCE, SILENCE_WITHOUT_SPEECH, Endpoint, EndpointRules
from ko_asr.runtime.results import Result, Word, silent_end, stable_length, words


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
