"""CTC prefix beam search over a stream, with a token n-gram and keywords.

Graves and Jaitly 2014 (the probability of a prefix sums over its alignments), with shallow fusion: a prefix
is worth ln p(acoustic) + alpha ln p(LM) + beta a token + the keywords' bonus. Prefixes form a tree, so a
token's language model and keyword scores are computed once, when the prefix is first reached.

What makes it fast is what is left out: tokens whose log-probability is ``token_threshold`` below the frame's
best are not tried, prefixes ``beam_threshold`` below the best are dropped, and in a frame that holds nothing
but blank no prefix can change. bench/beam.py measures what this costs and gains.

Runs inside the server. A language model is a `Scorer`, made by the caller.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from ko_asr.runtime.best_path import in_order, likely_tokens, path_tokens
from ko_asr.runtime.ctc import Token
from ko_asr.runtime.ctc_decoder import CtcDecoder, DecoderSettings
from ko_asr.runtime.endpoint import MAX_UTTERANCE, SILENCE_WITHOUT_SPEECH
from ko_asr.runtime.keywords import Keyword, booster_of
from ko_asr.runtime.prefix_search import IMPOSSIBLE, BeamOptions, Prefix, PrefixSearch, Scorer
from ko_asr.runtime.results import Result, Word, silent_end, stable_length, words


class BeamDecoder(CtcDecoder):
    """Beam search in the place of `GreedyDecoder`: the same results, end-points and counts.

    ``accept`` wants the ``options.tokens_a_frame`` best tokens of a frame or more; fewer narrow the search.
    """

    def __init__(
        self,
        settings: DecoderSettings,
        language_model: Scorer | None = None,
        keywords: Sequence[Keyword] = (),
        options: BeamOptions | None = None,
    ) -> None:
        super().__init__(settings)
        self.options = options or BeamOptions()
        booster = booster_of(tuple(keywords), self.vocabulary) if keywords else None
        self._search = PrefixSearch(self.vocabulary, self.blank_id, self.options, language_model, booster)
        self._begin(0)

    def _begin(self, origin: int) -> None:
        self._origin, self._shown = origin, ""
        self._best: Prefix | None = None  # at the last partial
        self._settled = self._search.root
        self._text, self._words = "", list[Word]()  # of settled words
        self._tail: list[Token] = []  # settled tokens after them

    def accept(self, ids: np.ndarray, log_probs: np.ndarray) -> list[Result]:
        """Take the next frames, int [T, K] and float [T, K], best token first.

        Returns finals, and last a partial when the text has changed.
        """
        results: list[Result] = []
        for tokens, scores in likely_tokens(ids, log_probs, self.blank_id, self.options):
            if not tokens:
                self._search.silence()
            else:
                self._search.step(self._frame, tokens, scores)
                results += self._at_word()
            self._frame += 1
            results += self._at_silence()
        return results + self._changed()

    def finish(self) -> list[Result]:
        """The final of what no end-point has ended, if there is anything or if there was no result at all."""
        best = self._search.best_at_end()
        results = self._close(*self._spell(best), None, self._frame) if best.speech or not self._index else []
        self._search.restart(-1, 0.0, IMPOSSIBLE)  # a file goes on behind a pause
        self._begin(self._frame)
        return results

    def _speech(self) -> tuple[int | None, int | None]:
        best = self._search.beam[0]
        return (best.speech.start, best.end) if best.speech else (None, None)

    def _at_silence(self) -> list[Result]:
        due = self._due()
        if (
            due is None
            or due.frame > self._frame
            or (due.rule == SILENCE_WITHOUT_SPEECH and self._silence_reported)
        ):
            return []
        best = self._search.best_at_end()
        results = self._close(*self._spell(best), due.rule, due.frame)
        if due.rule == MAX_UTTERANCE:  # its last token may sound on, and must not be decoded twice
            self._search.restart(best.token, best.blank, best.label)
        else:
            self._search.restart(-1, 0.0, IMPOSSIBLE)
        self._begin(due.frame)
        return results

    def _at_word(self) -> list[Result]:
        """End an utterance that is nearly too long before the word that the best prefix has just begun."""
        best = self._search.beam[0]
        if self.endpointing is None or best.seen or best is self._search.root:
            return []
        best.seen = True
        before = best.parent
        if before is None or before.speech is None or not self.vocabulary.begins_word(best.token):
            return []
        if not self.endpointing.ends_before_word(self.frame_ms, before.speech.start, best.start):
            return []
        results = self._close(*self._spell(before), MAX_UTTERANCE, best.start)
        self._search.cut(before)
        self._begin(best.start)
        return results

    def _changed(self) -> list[Result]:
        """A partial where the text has changed."""
        best = self._search.beam[0]
        if best is self._best:
            return []
        self._best = best
        stable = self._settle()
        text, words = self._spell(best)
        return self._partial(text, words, min(stable, len(text))) if text != self._shown else []

    def _settle(self) -> int:
        """Take in what the whole beam agrees on; returns how many characters of the text can never change."""
        common = self._search.settled(self._settled)
        text = self._text + self._read([*self._tail, *path_tokens(common.path(self._settled))])
        if common is not self._settled:
            self._take(common)
        return stable_length(text, self.vocabulary.rule)

    def _take(self, prefix: Prefix) -> None:
        """Keep the tokens above ``prefix`` as words and text, and forget the branches that left them."""
        path = prefix.path(self._settled)
        for token in path_tokens(path)[:-1]:
            if self.vocabulary.begins_word(token.id) and (settled := self._tail_words(self._tail)):
                self._words += settled
                self._text += self._read(self._tail)
                self._tail = silent_end(self._tail, self.vocabulary)
            self._tail.append(token)
        for above, below in itertools.pairwise([self._settled, *path]):
            above.children = {below.token: below}
        assert prefix.parent is not None
        self._settled = prefix.parent

    def _spell(self, prefix: Prefix) -> tuple[str, tuple[Word, ...]]:
        tokens = [*self._tail, *path_tokens(prefix.path(self._settled))]
        return self._text + self._read(tokens), in_order([*self._words, *self._tail_words(tokens)])

    def _read(self, tokens: Sequence[Token]) -> str:
        return self.vocabulary.text((token.id for token in tokens), not self._text)

    def _tail_words(self, tokens: Sequence[Token]) -> list[Word]:
        return words(tokens, self.vocabulary, self.frame_ms, self.offset_ms, not self._text)
