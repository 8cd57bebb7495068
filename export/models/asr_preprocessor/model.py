"""Audio to log-mel features, padded to a bucket so that the encoder's dynamic batcher can form batches.

Where a graph computes the features (the contract's front_end), audio leaves here padded in the same way.

Every check of a request is here: what is wrong with one is answered to that one (INVALID_ARGUMENT), and
never fails the requests that share its batch. Silence (the contract's silence_dbfs) leaves here with a length
that no audio has, by which the decoder knows it.
"""

import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr.errors import UserError
from ko_asr.runtime import answers, file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.log_mel import LOUDEST, LogMel
from ko_asr.runtime.silence import SILENT_FRAMES, is_silent


class TritonPythonModel:
    """The log-mel front end of one exported model, or what a log-mel graph needs before it."""

    def initialize(self, args: dict) -> None:
        """Read the contract and the front end beside this file."""
        self.contract = Contract.load(FOLDER)
        self.prepared = self._padded
        if self.contract.front_end == "numpy":
            self.log_mel = LogMel.load(FOLDER / file_names.LOG_MEL)
            self.prepared = self._features

    def execute(self, requests: list) -> list:
        """Answer every request with one response."""
        return answers.answer_each(pb_utils, requests, self._respond)

    def _respond(self, request):
        self._check_rate(pb_utils.get_input_tensor_by_name(request, tensors.RATE))
        audio = pb_utils.get_input_tensor_by_name(request, tensors.AUDIO).as_numpy()
        self._check(audio)
        return answers.response(pb_utils, self.prepared(audio))

    def _check_rate(self, tensor) -> None:
        if tensor is None:
            return
        rate = self.contract.sample_rate
        if np.any(tensor.as_numpy() != rate):
            given = int(tensor.as_numpy().flat[0])
            raise UserError(f"sample_rate is {given} Hz; resample the audio to {rate} Hz before sending it")

    def _features(self, audio: np.ndarray) -> dict[str, np.ndarray]:
        """Audio [rows, samples] to features [rows, mels, bucket] and length [rows, 1]."""
        rows, samples = audio.shape
        frames = self.log_mel.frames(samples)
        features = np.zeros((rows, self.contract.mels, self.contract.bucket(frames)), np.float32)
        for row in range(rows):
            features[row, :, :frames] = self.log_mel(audio[row])
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
