"""Windows of audio on the encoder's frame grid, and the samples that they are cut from. Numpy only."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """Audio of one forward pass. ``samples`` float32 [n] begin at encoder frame ``start``; the window answers
    for frames ``begin`` to ``end`` (not included), and the rest is context.

    ``pause`` says that it ends in silence, so that no word goes on behind it.
    """

    samples: np.ndarray
    start: int
    begin: int
    end: int
    pause: bool = False


class SampleBuffer:
    """Samples that are still needed, addressed by encoder frame."""

    def __init__(self, frame_samples: int) -> None:
        self._frame_samples = frame_samples
        self._samples = np.zeros(0, np.float32)
        self._first = 0  # frame where the buffer begins

    def append(self, samples: np.ndarray) -> None:
        """Add float32 samples [n] at the end."""
        self._samples = np.concatenate([self._samples, samples])

    @property
    def whole(self) -> int:
        """The frame after the last one whose samples are all here."""
        return self._first + len(self._samples) // self._frame_samples

    @property
    def total(self) -> int:
        """The frame after the last one of which any sample is here."""
        return self._first - (-len(self._samples) // self._frame_samples)

    def between(self, begin: int, end: int) -> np.ndarray:
        """A copy of the samples of frames ``begin`` to ``end`` (not included), as far as they are here."""
        first, last = (max(0, frame - self._first) * self._frame_samples for frame in (begin, end))
        return self._samples[first:last].copy()

    def drop_before(self, frame: int) -> None:
        """Forget what lies before ``frame``."""
        if frame > self._first:
            self._samples = self._samples[(frame - self._first) * self._frame_samples :].copy()
            self._first = frame
