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
from ko_asr.runtime import answers, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.file_front_end import FrontEnd


class TritonPythonModel:
    """The log-mel front end of one exported model, or what a log-mel graph needs before it."""

    def initialize(self, args: dict) -> None:
        """Read the contract and the front end beside this file."""
        self.contract = Contract.load(FOLDER)
        self.front_end = FrontEnd(self.contract, FOLDER)

    def execute(self, requests: list) -> list:
        """Answer every request with one response."""
        return answers.answer_each(pb_utils, requests, self._respond)

    def _respond(self, request):
        self._check_rate(pb_utils.get_input_tensor_by_name(request, tensors.RATE))
        audio = pb_utils.get_input_tensor_by_name(request, tensors.AUDIO).as_numpy()
        return answers.response(pb_utils, self.front_end(audio))

    def _check_rate(self, tensor) -> None:
        if tensor is None:
            return
        rate = self.contract.sample_rate
        if np.any(tensor.as_numpy() != rate):
            given = int(tensor.as_numpy().flat[0])
            raise UserError(f"sample_rate is {given} Hz; resample the audio to {rate} Hz before sending it")
