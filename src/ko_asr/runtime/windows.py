"""Windows of audio that is still arriving: of log-mel frames, or of samples for a log-mel graph.

Shared by the engine in a process (`ko_asr.recognition.streaming`) and by the server's preprocessor.
"""

import numpy as np

from ko_asr.errors import UserError
from ko_asr.runtime.log_mel import LogMel
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.stream_log_mel import StreamingLogMel


class StreamingWindows:
    """The front end of one stream in numpy: samples in, windows of log-mel frames out, one a chunk."""

    def __init__(self, contract: StreamingContract, log_mel: LogMel) -> None:
        self._contract = contract
        self._front_end = StreamingLogMel(log_mel)
        # Features from the next window's start on.
        self._features = np.zeros((contract.mels, contract.context_frames), np.float32)
        self.taken = 0  # windows given so far
        self.ended = False

    @property
    def samples(self) -> int:
        """Samples taken so far."""
        return self._front_end.samples

    def feed(self, samples: np.ndarray) -> None:
        """Take float32 ``samples`` [n], n >= 0. UserError after `end`."""
        if self.ended:
            raise UserError("the stream has ended: open another one")
        fresh = self._front_end.push(samples)
        if fresh.shape[1]:
            self._features = np.concatenate([self._features, fresh], axis=1)

    def end(self) -> None:
        """End the audio: its last frames become ready. Once is enough."""
        if not self.ended:
            self.ended = True
            self._features = np.concatenate([self._features, self._front_end.flush()], axis=1)

    @property
    def ready(self) -> bool:
        """True when a window can be taken."""
        if self.ended:
            return self.remaining > 0
        return self._features.shape[1] >= self._contract.window_frames

    @property
    def remaining(self) -> int:
        """Encoder frames of the audio so far that no window has covered."""
        return self._contract.frames_of_samples(self.samples) - self.taken * self._contract.chunk

    def take(self, out: np.ndarray) -> int:
        """Write the next window into ``out`` float32 [mels, window]; return how many frames are valid."""
        contract = self._contract
        valid = min(self._features.shape[1], contract.window_frames)
        out[:, :valid] = self._features[:, :valid]
        out[:, valid:] = 0.0
        self._features = self._features[:, contract.shift_frames :]
        self.taken += 1
        return valid


class SampleWindows:
    """The front end of one stream before a log-mel graph: samples in, windows of samples out, one a chunk."""

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
        """End the audio."""
        self.ended = True

    @property
    def remaining(self) -> int:
        """Encoder frames of the audio so far that no window has covered."""
        return self._contract.frames_of_samples(self.samples) - self.taken * self._contract.chunk

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


def checked(samples: np.ndarray) -> np.ndarray:
    """The samples as float32 [n]; UserError for anything that is not one channel of finite floats."""
    samples = np.asarray(samples)
    if samples.ndim != 1:
        raise UserError(f"one channel is heard, not samples of shape {samples.shape}: mix the channels first")
    if samples.dtype.kind != "f":
        raise UserError(f"samples must be floats in -1..1, not {samples.dtype}: divide int16 by 32768")
    samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise UserError("the samples hold NaN or infinity: nothing of this packet was taken")
    return samples
