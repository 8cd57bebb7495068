"""From audio that is still arriving to the windows of samples that the streaming log-mel graph takes.

The counterpart of `ko_asr.streaming_windows`, whose windows are features. Runs inside the server: numpy only.
"""

import numpy as np

from ko_asr.errors import UserError
from ko_asr.streaming_contract import StreamingContract


class SampleWindows:
    """The front end of one stream: samples in, windows out, each giving one chunk of encoder frames."""

    def __init__(self, contract: StreamingContract) -> None:
        self._contract = contract
        # Samples from the next window's start on: its first frame is centred, and one sample comes before.
        before = contract.context_frames * contract.hop + contract.window_samples // 2 + 1
        self._pending = np.zeros(before, np.float32)
        self.samples = 0  # taken so far
        self.taken = 0  # windows given so far
        self.ended = False

    def feed(self, samples: np.ndarray) -> None:
        """Take float32 ``samples`` [n], n >= 0. UserError after `end`."""
        if self.ended:
            raise UserError("the stream has ended: open another one")
        self._pending = np.concatenate([self._pending, samples])
        self.samples += len(samples)

    def end(self) -> None:
        """The audio is over."""
        self.ended = True

    @property
    def remaining(self) -> int:
        """Encoder frames of the audio so far that no window has covered."""
        return self._contract.encoder_frames(self.samples) - self.taken * self._contract.chunk

    def take(self, out: np.ndarray) -> tuple[int, int]:
        """Write the next window into ``out`` float32 [`StreamingContract.window_audio`].

        Returns how many of its frames lie before the audio, and how many of its samples before the end.
        """
        contract = self._contract
        count = min(len(self._pending), len(out))
        out[:count] = self._pending[:count]
        out[count:] = 0.0
        before = max(0, contract.context_frames - self.taken * contract.shift_frames)
        self._pending = self._pending[contract.shift_samples :]
        self.taken += 1
        return before, count
