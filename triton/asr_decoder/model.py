"""The encoder's best token of each frame to text and confidence: greedy CTC."""

import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr import contract as names  # noqa: E402
from ko_asr import ctc  # noqa: E402


class TritonPythonModel:
    """The decoder of one exported model."""

    def initialize(self, args: dict) -> None:
        """Read the contract; refuse an encoder of another export, which would answer with wrong words."""
        self.contract = names.Contract.load(FOLDER)
        self.vocabulary = self.contract.text_vocabulary()
        encoder = Path(args["model_repository"]).parent / names.ENCODER / args["model_version"]
        if (encoder / names.FILE_NAME).is_file():  # a repository on object storage is fetched model by model
            other = names.Contract.load(encoder).export_id
            if other != self.contract.export_id:
                raise RuntimeError(
                    f"{names.ENCODER} is of export {other}, {names.DECODER} of {self.contract.export_id}: "
                    "fill the repository again with python export/to_triton.py"
                )

    def execute(self, requests: list) -> list:
        """One response a request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        ids, log_probs, lengths = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()
            for name in (names.TOKEN_IDS, names.TOKEN_LOG_PROBS, names.ENCODED_LENGTH)
        )
        rows = [self._decode(*row) for row in zip(ids, log_probs, lengths[:, 0], strict=True)]
        texts = np.array([[text.encode()] for text, _ in rows], dtype=np.object_)
        confidences = np.array([[confidence] for _, confidence in rows], dtype=np.float32)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(names.TEXT, texts), pb_utils.Tensor(names.CONFIDENCE, confidences)]
        )

    def _decode(self, ids: np.ndarray, log_probs: np.ndarray, length: int) -> tuple[str, float]:
        scores = log_probs[:length]
        tokens = ctc.collapse(ids[:length], self.contract.blank_id, scores)
        return self.vocabulary.text(token.id for token in tokens), ctc.confidence(tokens, scores)
