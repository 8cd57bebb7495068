"""What both gates before a repository share: what will be served must equal NeMo, measured, not assumed.

The comparisons are in `ko_asr.export.offline.parity` and `ko_asr.export.streaming.parity`.
"""

import numpy as np

LIMIT = 1e-3  # largest absolute difference allowed, in log-probabilities and in normalised features


def noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Noise of any level with silence in it, float32 [samples]."""
    level = 10 ** generator.uniform(-3, -0.5)
    audio = (level * generator.standard_normal(samples)).astype(np.float32)
    audio[samples // 3 : samples // 2] = 0.0
    return audio


def furthest(ours: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference; infinite between different shapes."""
    return float(np.abs(ours - wanted).max(initial=0.0)) if ours.shape == wanted.shape else float("inf")
