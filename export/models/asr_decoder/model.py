"""The encoder's best token of each frame to text, confidence and words with their times: greedy CTC."""

import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr.errors import UserError
from ko_asr.runtime import answers, ctc, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.recordings import FrameDecoder


class TritonPythonModel:
    """The decoder of one exported model."""

    def initialize(self, args: dict) -> None:
        """Read the contract; refuse models of another export, which would answer with wrong words."""
        self.contract = Contract.load(FOLDER)
        self.decoder = FrameDecoder(self.contract)
        self.contract.check_deployment(args, self.contract.models, tensors.ENCODER)

    def execute(self, requests: list) -> list:
        """Answer every request with one response."""
        return answers.answer_each(pb_utils, requests, self._respond)

    def _respond(self, request):
        ids, log_probs, lengths = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in (tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH)
        )
        if ids.shape != log_probs.shape or lengths.max() > ids.shape[1]:
            raise UserError(
                f"token_ids {ids.shape}, token_log_probs {log_probs.shape} and an encoded_length of "
                f"{lengths.max()} do not belong together"
            )
        rows = list(zip(ids, log_probs, lengths[:, 0].tolist(), strict=True))
        tokens = [self.decoder.tokens(*row) for row in rows]
        scores = [self.decoder.valid(row, length) for _, row, length in rows]
        makers = {
            tensors.TEXT: lambda: self._strings(map(self.decoder.text, tokens)),
            tensors.CONFIDENCE: lambda: np.array(
                [[ctc.confidence(*row)] for row in zip(tokens, scores, strict=True)], dtype=np.float32
            ),
            tensors.WORDS: lambda: self._strings(map(self.decoder.words, tokens)),
        }
        wanted = request.requested_output_names()
        return answers.response(pb_utils, {name: makers[name]() for name in wanted})

    @staticmethod
    def _strings(values) -> np.ndarray:
        return np.array([[value.encode()] for value in values], dtype=np.object_)
