"""The encoder's best tokens of each frame to text, confidence and words with their times.

Greedy CTC, or a beam search for the requests that bring keywords.
"""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr.errors import UserError
from ko_asr.runtime import answers, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.file_decoder import FileDecoder, Heard
from ko_asr.runtime.options import read_keywords


class TritonPythonModel:
    """The decoder of one exported model."""

    def initialize(self, args: dict) -> None:
        """Read the contract; refuse models of another export, which would answer with wrong words."""
        self.contract = Contract.load(FOLDER)
        self.contract.check_deployment(args, self.contract.models, tensors.ENCODER)
        self.decode = FileDecoder(self.contract)

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
        # Silence comes with a negative length: no frames, and a confidence of 0.
        frames = [max(0, length) for length in lengths[:, 0]]
        rows = zip(ids, log_probs, frames, self._keywords(request, len(ids)), strict=True)
        heard = [self.decode(row[:count], scores[:count], words) for row, scores, count, words in rows]
        makers = {tensors.TEXT: _texts, tensors.CONFIDENCE: _confidences, tensors.WORDS: _words}
        return answers.response(
            pb_utils, {name: makers[name](heard) for name in request.requested_output_names()}
        )

    @staticmethod
    def _keywords(request, rows: int) -> list[list]:
        """The keywords of each row."""
        given = pb_utils.get_input_tensor_by_name(request, tensors.OPTIONS)
        return [read_keywords(options) for options in given.as_numpy()[:, 0]] if given else [[]] * rows


def _texts(heard: list[Heard]) -> np.ndarray:
    return _strings(one.text() for one in heard)


def _confidences(heard: list[Heard]) -> np.ndarray:
    return np.array([[one.confidence()] for one in heard], dtype=np.float32)


def _words(heard: list[Heard]) -> np.ndarray:
    """JSON lists of words: text, start_ms, end_ms, confidence."""
    return _strings(json.dumps([word.to_json() for word in one.words()], ensure_ascii=False) for one in heard)


def _strings(values) -> np.ndarray:
    return np.array([[value.encode()] for value in values], dtype=np.object_)
