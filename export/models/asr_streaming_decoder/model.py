"""The encoder's best tokens of each chunk to what a client reads: partials, finals, words, the written form.

What the preprocessor found wrong is answered here, where the stream's slot is freed as well.
"""

import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr.errors import UserError
from ko_asr.finishing.finisher import Finisher
from ko_asr.runtime import answers, ctc, failure, tensors
from ko_asr.runtime.failure import Failed
from ko_asr.runtime.keywords import spelling_of
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.stream_table import StreamTable

START, END = (
    pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
)


class Stream:
    """One live stream: its number, its next chunk, its decoder and the result that it showed last."""

    def __init__(self, number: int, decoder) -> None:
        self.number, self.decoder = number, decoder
        self.chunk, self.shown = 0, Result("", False, 0, 0)


class TritonPythonModel:
    """The streaming decoder of one exported model."""

    def initialize(self, args: dict) -> None:
        """Read the contract; refuse steps of another export, which would answer with wrong words."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.contract = StreamingContract.load(FOLDER)
        self.defaults = StreamOptions().updated(parameters[tensors.OPTIONS])
        self.streams = StreamTable[Stream](None, float(parameters["time_to_live"]))
        steps = (*parameters["front_end"].split(","), parameters["encoder"])
        self.contract.check_deployment(args, steps, parameters["encoder"])
        spelling_of(self.contract.text_vocabulary())  # now, not while streams wait
        Finisher()

    def execute(self, requests: list) -> list:
        """Answer every request with one response."""
        return answers.answer_each(pb_utils, requests, self._respond)

    def _respond(self, request):
        key, flags = request.correlation_id(), request.flags()
        over = True  # a stream that fails is
        try:
            text = pb_utils.get_input_tensor_by_name(request, tensors.FAILURE).as_numpy()[0, 0]
            if (failed := failure.parse(text.decode(errors="replace"))) is not None:
                raise Failed(failed)
            response = self._answer(self._results(request, key, flags))
            over = bool(flags & END)
            return response
        finally:
            if over:
                self.streams.close(key)

    def _results(self, request, key: int, flags: int) -> list:
        """The finals of this chunk, and the partial after them; never empty."""
        number, taken, frames = (
            int(n) for n in pb_utils.get_input_tensor_by_name(request, tensors.STREAM).as_numpy()[0]
        )
        ids, log_probs = self._frames(request, frames)
        if flags & START:
            given = pb_utils.get_input_tensor_by_name(request, tensors.OPTIONS)
            options = self.defaults.updated(given.as_numpy()[0, 0]) if given else self.defaults
            self.streams.open(key, Stream(number, options.decoder(self.contract)))
        stream = self.streams.get(key)
        # An id used twice, or a chunk lost on the way, must never put one stream's words into another.
        if stream is None or stream.number != number or stream.chunk != taken - 1:
            raise UserError("this stream was interrupted: end it and begin another")
        stream.chunk = taken
        results = stream.decoder.accept(ids, log_probs) if frames else []
        if flags & END:  # a partial before its final holds nothing new
            results = [result for result in results if result.is_final] + stream.decoder.finish()
        if results:
            stream.shown = results[-1]
        elif stream.shown.is_final:  # a final is given once
            stream.shown = Result("", False, 0, 0, utterance=stream.shown.utterance + 1)
        return results or [stream.shown]

    def _frames(self, request, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """The best tokens of the chunk's first ``frames`` frames, [frames, k] each."""
        ids, log_probs = (
            pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0, :frames]
            for name in (tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS)
        )
        if not 0 <= frames <= self.contract.chunk:
            raise UserError(f"stream tells of {frames} frames: a chunk has 0 to {self.contract.chunk}")
        ctc.check_frames(ids, log_probs, self.contract.blank_id)
        return ids, log_probs

    def _answer(self, results: list):
        words = [_json([word.to_json() for word in result.words]) for result in results]
        written = [_json(result.written.to_json()) if result.written else b"" for result in results]
        outputs = {
            tensors.TEXT: np.array([[result.text.encode() for result in results]], np.object_),
            tensors.IS_FINAL: np.array([[result.is_final for result in results]], np.bool_),
            tensors.WORDS: np.array([words], np.object_),
            tensors.UTTERANCE: np.array([[result.utterance for result in results]], np.int32),
            tensors.STABLE: np.array([[result.stable for result in results]], np.int32),
            tensors.WRITTEN: np.array([written], np.object_),
        }
        return answers.response(pb_utils, outputs)


def _json(data) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()
