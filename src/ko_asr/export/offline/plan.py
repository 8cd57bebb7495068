"""The shapes that a TensorRT plan of the offline encoder must hold, and its comparison with ONNX Runtime.

Needs numpy; ``onnxruntime`` to compare.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ko_asr.export.session import open_session
from ko_asr.export.tensorrt import PlanRunner, Shapes
from ko_asr.runtime.tensors import ENCODED_LENGTH, FEATURES, LENGTH, LOG_PROBS, TOKEN_IDS, TOKEN_LOG_PROBS

_USUAL_FRAMES = 512  # the length that the builder tunes for, or the bucket nearest to it


def offline_profile(mels: int, buckets: Sequence[int], max_batch_size: int) -> dict[str, list[list[int]]]:
    """The one optimisation profile: every length and batch that the contract lets in, its middle as usual."""
    batches = (1, max(1, max_batch_size // 2), max_batch_size)
    frames = (min(buckets), min(buckets, key=lambda size: abs(size - _USUAL_FRAMES)), max(buckets))
    return {
        FEATURES: [[batch, mels, length] for batch, length in zip(batches, frames, strict=True)],
        LENGTH: [[batch, 1] for batch in batches],
    }


def offline_difference(runner: PlanRunner, graph: Path, shapes: Shapes) -> float:
    """Largest difference of the best tokens' log-probabilities between a plan and ONNX Runtime.

    Over the least, usual and largest shape and an odd, padded mixture; infinite when lengths or finiteness
    differ.
    """
    session = open_session(graph)
    worst = 0.0
    for feed in _feeds(shapes):
        best, counts, ids = session.run([TOKEN_LOG_PROBS, ENCODED_LENGTH, TOKEN_IDS], feed)
        got = runner(feed)
        if not np.array_equal(got[ENCODED_LENGTH], counts):
            return float("inf")
        for row, count in enumerate(counts[:, 0]):
            place = ids[row, :count, :1].astype(np.int64)
            chosen = np.take_along_axis(got[LOG_PROBS][row, :count], place, axis=1)[:, 0]
            difference = float(np.abs(chosen - best[row, :count, 0]).max())
            worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst


def _feeds(shapes: Shapes) -> Iterator[dict[str, np.ndarray]]:
    """Noise of each shape of the profile and of the usual one less a frame, rows of falling lengths."""
    generator = np.random.default_rng(0)
    usual = shapes[FEATURES][1]
    for batch, mels, frames in [*shapes[FEATURES], [*usual[:2], usual[2] - 1]]:
        features = generator.standard_normal((batch, mels, frames)).astype(np.float32)
        lengths = np.maximum(9, frames - 37 * np.arange(batch))[:, None].astype(np.int64)
        yield {FEATURES: features, LENGTH: np.minimum(lengths, frames)}
