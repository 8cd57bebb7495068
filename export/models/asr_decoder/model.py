"""The encoder's best token of each frame to text, confidence and words with their times: greedy CTC."""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr.runtime import ctc, results, tensors
from ko_asr.runtime.contract import Contract


class TritonPythonModel:
    """The decoder of one exported model."""

    def initialize(self, args: dict) -> None:
        """Read the contract; refuse models of another export, which would answer with wrong words."""
        self.contract = Contract.load(FOLDER)
        self.vocabulary = self.contract.text_vocabulary()
        self.contract.check_deployment(args, self.contract.models, tensors.ENCODER)

    def execute(self, requests: list) -> list:
        """Answer every request with one response."""
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        ids, log_probs, lengths = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in (tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH)
        )
        # Silence comes with a negative length: no frames, and a confidence of 0.
        scores = [row[: max(0, length)] for row, length in zip(log_probs, lengths[:, 0], strict=True)]
        tokens = [
            ctc.collapse(row[: len(score)], self.contract.blank_id, score)
            for row, score in zip(ids, scores, strict=True)
        ]
        answers = {
            tensors.TEXT: lambda: self._strings(self.vocabulary.text(t.id for t in row) for row in tokens),
            tensors.CONFIDENCE: lambda: np.array(
                [[ctc.confidence(*row)] for row in zip(tokens, scores, strict=True)], dtype=np.float32
            ),
            tensors.WORDS: lambda: self._strings(self._words(row) for row in tokens),
        }
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, answers[name]()) for name in wanted])

    @staticmethod
    def _strings(values) -> np.ndarray:
        return np.array([[value.encode()] for value in values], dtype=np.object_)

    def _words(self, tokens: list[ctc.Token]) -> str:
        """A JSON list of words: text, start_ms, end_ms, confidence."""
        found = results.words(tokens, self.vocabulary, 1000 * self.contract.frame_seconds)
        return json.dumps([word.to_json() for word in found], ensure_ascii=False)
