"""The decoder of whole recordings: greedy, or beam search where there are keywords.

Runs inside the server. Words, which take most of the time, are made only when they are asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.words import Written
from ko_asr.runtime import ctc, results
from ko_asr.runtime.best_path import best_tokens, in_order
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.keywords import Keyword, spelling_of


@dataclass(frozen=True)
class Heard:
    """The tokens of one recording, and the log-probability of each frame's best token, [frames]."""

    contract: Contract
    tokens: Sequence[ctc.Token]
    frames: np.ndarray

    def text(self) -> str:
        """The text, NFC."""
        return self.contract.text_vocabulary().text(token.id for token in self.tokens)

    def confidence(self) -> float:
        """The confidence in 0..1."""
        return ctc.confidence(self.tokens, self.frames)

    def words(self) -> tuple[results.Word, ...]:
        """The words, with times in ms since the start of the recording."""
        frame_ms = 1000 * self.contract.frame_seconds
        return in_order(results.words(self.tokens, self.contract.text_vocabulary(), frame_ms))

    def written(self, options: FinishOptions) -> Written:
        """The written form. UserError for options that cannot be."""
        return Finisher(options)(self.words())


class FileDecoder:
    """Best tokens of each frame to text and words."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        spelling_of(contract.text_vocabulary())  # now, not while requests wait

    def __call__(self, ids: np.ndarray, log_probs: np.ndarray, keywords: Sequence[Keyword] = ()) -> Heard:
        """Decode int [frames, k] and float [frames, k], best first; no frames are silence.

        UserError for frames that no encoder of this model gives, and for a keyword that no token spells.
        """
        blank, vocabulary = self.contract.blank_id, self.contract.text_vocabulary()
        ctc.check_frames(ids, log_probs, blank)
        best = log_probs[:, 0]
        if keywords:
            tokens = best_tokens(ids, log_probs, vocabulary, blank, keywords)
        else:
            tokens = ctc.collapse(ids[:, 0], blank, best)
        return Heard(self.contract, tokens, best)
