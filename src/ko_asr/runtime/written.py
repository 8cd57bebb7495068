"""Results with their written form beside the spoken one, whoever decodes. Runs inside the server."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ko_asr.finishing.live import LiveFinisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.words import Written
from ko_asr.runtime.results import Decoder, Result


class WrittenDecoder:
    """A decoder of one stream whose results have their written form."""

    def __init__(self, decoder: Decoder, options: FinishOptions) -> None:
        """UserError for options that cannot be."""
        self.spoken = decoder
        self._finisher = LiveFinisher(options)

    def accept(self, ids: np.ndarray, log_probs: np.ndarray) -> list[Result]:
        """Take the next frames' best tokens, int32 [T, K] and float32 [T, K], best first."""
        return self._written(self.spoken.accept(ids, log_probs))

    def finish(self) -> list[Result]:
        """End the audio: the final of what is left."""
        return self._written(self.spoken.finish())

    @property
    def partials(self) -> int:
        """The partials given."""
        return self.spoken.partials

    @property
    def revised(self) -> int:
        """Those of them whose spoken text was no beginning of what followed."""
        return self.spoken.revised

    def _written(self, results: Sequence[Result]) -> list[Result]:
        return [replace(result, written=self._form(result)) for result in results]

    def _form(self, result: Result) -> Written:
        if result.is_final:
            return self._finisher.final(result.words)
        return self._finisher.partial(result.words, settled_words(result.text, result.stable))


def settled_words(text: str, stable: int) -> int:
    """Count the complete words within the first ``stable`` characters of a text, which stay.

    >>> settled_words("이천 원만", 5), settled_words("이천 원만", 3)
    (1, 1)
    """
    ended = text[stable - 1 : stable].isspace()
    return len(text[:stable].split()) - (0 if ended or not stable else 1)
