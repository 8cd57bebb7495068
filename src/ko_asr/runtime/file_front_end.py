"""The front end of whole recordings: audio to what the encoder takes.

Shared by the Python models of Triton's ensemble and by the gateway's engine without Triton.
"""

from pathlib import Path

import numpy as np

from ko_asr.errors import UserError
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.log_mel import LOUDEST, LogMel
from ko_asr.runtime.silence import SILENT_FRAMES, is_silent


class FrontEnd:
    """Audio to log-mel features, padded to a bucket so that batches form; before a log-mel graph to samples.

    Silence (the contract's silence_dbfs) gets a length that no audio has, by which the decoder knows it.
    """

    def __init__(self, contract: Contract, folder: Path) -> None:
        """Read the front end of ``contract`` in ``folder``. OSError or KeyError when it is broken."""
        self.contract = contract
        self._prepared = self._padded
        if contract.front_end == "numpy":
            self._log_mel = LogMel.load(folder / file_names.LOG_MEL)
            self._prepared = self._features

    def __call__(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """The next step's tensors for ``audio`` float32 [rows, samples]. UserError tells what is wrong."""
        self._check(audio)
        return self._prepared(audio)

    def _features(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Audio [rows, samples] to features [rows, mels, bucket] and length [rows, 1]."""
        rows, samples = audio.shape
        frames = self._log_mel.frames(samples)
        features = np.zeros((rows, self.contract.mels, self.contract.bucket(frames)), np.float32)
        for row in range(rows):
            features[row, :, :frames] = self._log_mel(audio[row])
        return {tensors.FEATURES: features, tensors.LENGTH: self._lengths(audio, frames, SILENT_FRAMES)}

    def _padded(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Audio [rows, samples] to the padded samples of a bucket [rows, ...] and samples [rows, 1]."""
        rows, samples = audio.shape
        bucket = self.contract.bucket(samples // self.contract.hop)
        padded = np.zeros((rows, self.contract.padded_samples(bucket)), np.float32)
        padded[:, :samples] = audio
        silent = SILENT_FRAMES * self.contract.hop
        return {tensors.PADDED_AUDIO: padded, tensors.SAMPLES: self._lengths(audio, samples, silent)}

    def _lengths(self, audio: np.ndarray, length: int, silent: int) -> np.ndarray:
        """[rows, 1]: ``length`` of each row of ``audio``, ``silent`` of those that are silence."""
        rows = (silent if is_silent(row, self.contract.silence_dbfs) else length for row in audio)
        return np.fromiter(rows, np.int64, len(audio))[:, None]

    def _check(self, audio: np.ndarray) -> None:
        samples, rate = audio.shape[1], self.contract.sample_rate
        least, most = self.contract.min_samples, self.contract.max_samples
        if samples < least:
            raise UserError(
                f"audio has {samples} samples; the least is {least} ({1000 * least / rate:.0f} ms)"
            )
        if samples > most:
            raise UserError(
                f"audio lasts {samples / rate:.1f} s; this server takes at most {most / rate:g} s a request"
            )
        low, high = audio.min(), audio.max()  # NaN goes through both
        if not np.isfinite(low) or not np.isfinite(high):
            raise UserError("audio holds NaN or infinite samples")
        if max(-low, high) > LOUDEST:
            raise UserError("audio holds values far outside -1..1; scale the samples to -1..1")
