"""Log-mel features of audio that is still arriving: those of the whole audio, as soon as they are final.

A frame is final when its window is full; at the end of the audio the last windows are filled with zeros, as
NeMo's centred STFT does. Runs inside the server: numpy only.
"""

import numpy as np

from ko_asr.errors import UserError
from ko_asr.runtime.log_mel import LogMel


def check_streamable(log_mel: LogMel) -> None:
    """Raise UserError when the features are normalised over the utterance."""
    if log_mel.normalize != "NA":
        raise UserError(
            f"features normalised {log_mel.normalize} need the whole utterance: "
            "train a streaming model with --config-name fastconformer_ko_streaming"
        )


class StreamingLogMel:
    """The front end of one stream. UserError when the features are normalised over the utterance."""

    def __init__(self, log_mel: LogMel) -> None:
        check_streamable(log_mel)
        self._log_mel = log_mel
        before = len(log_mel.window) // 2  # the first window is centred on the first sample
        self._pending = np.zeros(before, np.float32)  # pre-emphasised, from the next window's start on
        self._last = np.zeros(1, np.float32)  # sample before the next one, for the pre-emphasis
        self.samples = 0
        self.frames = 0  # given so far

    def push(self, samples: np.ndarray) -> np.ndarray:
        """Take float32 ``samples`` [n], n >= 0; return the features [mels, frames] that are now final."""
        shifted = np.concatenate([self._last, samples])
        emphasised = shifted[1:] - np.float32(self._log_mel.preemphasis) * shifted[:-1]
        self._last = shifted[-1:].copy()  # a view would keep the caller's whole buffer
        self._pending = np.concatenate([self._pending, emphasised])
        self.samples += len(samples)
        hop, window = self._log_mel.hop, len(self._log_mel.window)
        return self._features(max(0, (len(self._pending) - window) // hop + 1))

    def flush(self) -> np.ndarray:
        """End of the audio: the last features [mels, frames], ``samples // hop`` in all."""
        count = self._log_mel.frames(self.samples) - self.frames
        if count <= 0:
            return self._features(0)
        missing = (count - 1) * self._log_mel.hop + len(self._log_mel.window) - len(self._pending)
        self._pending = np.concatenate([self._pending, np.zeros(max(0, missing), np.float32)])
        return self._features(count)

    def _features(self, count: int) -> np.ndarray:
        log_mel = self._log_mel
        if not count:
            return np.empty((len(log_mel.filters), 0), np.float32)
        features = log_mel.energies_of(log_mel.windows(self._pending, count))
        features += np.float32(log_mel.log_guard)
        self._pending = self._pending[count * log_mel.hop :]
        self.frames += count
        np.log(features, out=features)
        return features
