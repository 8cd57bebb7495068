"""The encoder's best tokens of each frame to text, confidence, words with their times, and the written form.

Greedy CTC, or a beam search for the requests that bring keywords.
"""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr.errors import UserError
from ko_asr.finishing.finisher import Finisher
from ko_asr.runtime import answers, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.file_decoder import FileDecoder, Heard
from ko_asr.runtime.keywords import parse_keywords
from ko_asr.runtime.options import FileOptions


class TritonPythonModel:
    """The decoder of one exported model."""

    def initialize(self, args: dict) -> None:
        """Read the contract; refuse models of another export, which would answer with wrong words."""
        self.contract = Contract.load(FOLDER)
        self.contract.check_deployment(args, self.contract.models, tensors.ENCODER)
        self.decode = FileDecoder(self.contract)
        Finisher()  # a second of work: now, not while requests wait

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
        options = self._options(request, len(ids))
        rows = zip(ids, log_probs, frames, map(_keywords, options), strict=True)
        heard = [self.decode(row[:count], scores[:count], words) for row, scores, count, words in rows]
        makers = {
            tensors.TEXT: _texts,
            tensors.CONFIDENCE: _confidences,
            tensors.WORDS: _words,
            tensors.WRITTEN: functools.partial(_written, options),
        }
        return answers.response(
            pb_utils, {name: makers[name](heard) for name in request.requested_output_names()}
        )

    @staticmethod
    def _options(request, rows: int) -> list[FileOptions]:
        """The options of each row."""
        given = pb_utils.get_input_tensor_by_name(request, tensors.OPTIONS)
        return [FileOptions.read(row) for row in given.as_numpy()[:, 0]] if given else [FileOptions()] * rows


def _keywords(options: FileOptions) -> list:
    return parse_keywords(options.keywords)


def _texts(heard: list[Heard]) -> np.ndarray:
    return _strings(one.text() for one in heard)


def _confidences(heard: list[Heard]) -> np.ndarray:
    return np.array([[one.confidence()] for one in heard], dtype=np.float32)


def _words(heard: list[Heard]) -> np.ndarray:
    """JSON lists of words: text, start_ms, end_ms, confidence."""
    return _strings(_json([word.to_json() for word in one.words()]) for one in heard)


def _written(options: list[FileOptions], heard: list[Heard]) -> np.ndarray:
    """A JSON object of each row that asks for the written form; nothing for others."""
    rows = zip(options, heard, strict=True)
    return _strings(_json(one.written(row.written).to_json()) if row.written else "" for row, one in rows)


def _strings(values) -> np.ndarray:
    return np.array([[value.encode()] for value in values], dtype=np.object_)


def _json(data) -> str:
    return json.dumps(data, ensure_ascii=False)
