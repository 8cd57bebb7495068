"""Decoded audio in pieces for one request each: whole where it is short, else cut at silences."""

from collections.abc import Iterator

import numpy as np

from ko_asr.gateway.audio.decode import Decoded
from ko_asr.recognition.segmentation import Segmenter
from ko_asr.recognition.window import Window
from ko_asr.runtime.frames import SAMPLE_RATE

FRAME_SAMPLES = 1280  # the grid of cuts, 80 ms: an encoder frame of most models
FRAME_MS = 1000 * FRAME_SAMPLES // SAMPLE_RATE
_BLOCK = 30 * SAMPLE_RATE
_SHORTEST = SAMPLE_RATE // 10  # the last piece may be less than a model has features for


def whole_window(samples: np.ndarray) -> Window:
    """Float32 ``samples`` [n] as one window."""
    return Window(samples, 0, 0, -(-len(samples) // FRAME_SAMPLES), pause=True)


def pieces(audio: Decoded, longest: float) -> Iterator[Window]:
    """Yield windows of at most ``longest`` seconds, and their context; between them is nothing or silence."""
    segmenter = Segmenter(FRAME_SAMPLES, SAMPLE_RATE, longest=longest)
    for block in audio.blocks(_BLOCK):
        yield from map(_padded, segmenter.push(block))
    yield from map(_padded, segmenter.flush())


def _padded(window: Window) -> Window:
    missing = _SHORTEST - len(window.samples)
    if missing <= 0:
        return window
    samples = np.pad(window.samples, (0, missing))
    return Window(samples, window.start, window.begin, window.end, window.pause)
