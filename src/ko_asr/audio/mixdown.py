"""Channels to one, and float samples that cannot be audio."""

import numpy as np

from ko_asr.audio.problem import AudioProblem

_LARGEST = (
    64.0  # of float samples: a clipped recording has 2 or 8, one at the scale of integers has thousands
)
_CANCELLED = 0.01  # of the channels' mean power: 20 dB are lost in their mean
_HEARD = 1e-6  # power of a block in which channels are compared: -60 dBFS


class Mixdown:
    """Blocks of one recording to mono: the mean of all channels, or one of those that cancel out.

    ``repairs`` names what was done, and is complete after the last block.
    """

    def __init__(self) -> None:
        self.repairs: tuple[str, ...] = ()
        self._taken: int | None = None  # the channel that is taken, -1 for the mean of all

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Mix [n, channels] down to [n]."""
        if block.shape[1] == 1:
            return block[:, 0]
        mean = block.mean(axis=1, dtype=np.float32)
        if self._taken is None:
            power = np.square(block, dtype=np.float32).mean(axis=0)
            if float(power.mean()) >= _HEARD:  # the first block with sound decides for the file
                cancelled = float(np.square(mean).mean()) < _CANCELLED * float(power.mean())
                self._taken = int(power.argmax()) if cancelled else -1
                self.repairs = (
                    ("one channel of several that cancel out",) if cancelled else ("mixed down to mono",)
                )
        if self._taken is None or self._taken < 0:
            self.repairs = self.repairs or ("mixed down to mono",)
            return mean
        return np.ascontiguousarray(block[:, self._taken])


def check_values(block: np.ndarray, at: int, rate: int) -> None:
    """Raise AudioProblem where float32 [n, channels], from sample ``at`` on, holds NaN or has no scale."""
    low, high = block.min(), block.max()
    if low >= -_LARGEST and high <= _LARGEST:
        return
    finite = np.isfinite(block).all(axis=1)
    when = f"after {(at + int(finite.argmin())) / rate:.1f} s"
    if finite.all():
        peak = max(-low, high)
        raise AudioProblem(
            f"float samples out of scale (up to {peak:.0f})",
            f"holds float samples of up to {peak:.0f} {when}, not -1 to 1: "
            "divide them by 32768, or write integers",
        )
    raise AudioProblem(f"NaN or infinity ({when})", f"holds NaN or infinity {when}: make it again")
