"""Latencies of live results: the wait of a listener, measured on the wall clock.

First partial: from the start of an utterance's first word until its first result is there. Final: from the
end of its last word until the final is there, which contains the silence that an end-point asks for. Chunk
compute: the work for the frames of one chunk. Word times are the model's own, and a CTC model may place them
later than the sound, which makes the first two look shorter by as much.
"""

from collections.abc import Sequence

import numpy as np

from ko_asr.runtime.results import Decoder, Result


class CountingDecoder:
    """A decoder that counts the chunks of frames it was given."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.chunks = 0

    def accept(self, ids: np.ndarray, log_probs: np.ndarray) -> list[Result]:
        """Count a chunk and pass it on."""
        self.chunks += 1
        return self.decoder.accept(ids, log_probs)

    def finish(self) -> list[Result]:
        """Pass the end of the audio on."""
        return self.decoder.finish()


class LatencyMeter:
    """Collects the latencies of one stream. Times in seconds on the clock where the audio began at 0."""

    def __init__(self) -> None:
        self.first_partial: list[float] = []
        self.final: list[float] = []
        self.compute: list[float] = []
        self._shown = -1  # the last utterance of which a result was seen

    def computed(self, seconds: float, chunks: int) -> None:
        """Note that ``chunks`` chunks were computed in ``seconds`` together."""
        self.compute += [seconds / chunks] * chunks

    def see(self, results: Sequence[Result], now: float) -> None:
        """Note results that are there at ``now``."""
        for result in results:
            if result.words and result.utterance > self._shown:
                self._shown = result.utterance
                self.first_partial.append(now - result.start_ms / 1000.0)
            if result.is_final and result.words:
                self.final.append(now - result.end_ms / 1000.0)

    def figures(self, paced: bool) -> dict[str, dict[str, float]]:
        """Median and 99th percentile in ms of what was measured; waiting only where audio was ``paced``."""
        kinds = {"chunk compute": self.compute}
        if paced:
            kinds |= {"first partial": self.first_partial, "final after speech": self.final}
        return {
            name: {
                "p50": float(1000 * np.percentile(values, 50)),
                "p99": float(1000 * np.percentile(values, 99)),
                "count": len(values),
            }
            for name, values in kinds.items()
            if values
        }
