"""Audio of live streams to windows of log-mel features, one window a request.

Where a graph computes the features (the contract's front_end), windows of samples leave here instead.

Every check of a request is here. Triton never shows a request that is answered with an error to the next
steps. That is what a start that fails is for: it takes no place in them. A stream that has begun has its
slots in them, so its failure travels on as a tensor, and the decoder answers with it.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr.errors import UserError
from ko_asr.runtime import answers, failure, file_names, tensors
from ko_asr.runtime.failure import Failed, Failure
from ko_asr.runtime.log_mel import LOUDEST, LogMel
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.stream_table import StreamTable
from ko_asr.runtime.windows import SampleWindows, StreamingWindows, checked

START, END = (
    pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
)


class Features:
    """The front end in numpy: windows of log-mel features, and how many of their frames are valid."""

    def __init__(self, contract: StreamingContract) -> None:
        self.contract, self.log_mel = contract, LogMel.load(FOLDER / file_names.LOG_MEL)

    def open(self) -> StreamingWindows:
        return StreamingWindows(self.contract, self.log_mel)

    def outputs(self, windows: StreamingWindows | None) -> dict[str, np.ndarray]:
        """The next window's tensors; without ``windows``, those of a request that failed."""
        features = np.zeros((1, self.contract.mels, self.contract.window_frames), np.float32)
        length = windows.take(features[0]) if windows else 0
        return {tensors.FEATURES: features, tensors.LENGTH: np.array([[length]], np.int64)}


class Samples:
    """The front end before a log-mel graph: windows of samples, and where the audio lies in them."""

    def __init__(self, contract: StreamingContract) -> None:
        self.contract = contract

    def open(self) -> SampleWindows:
        return SampleWindows(self.contract)

    def outputs(self, windows: SampleWindows | None) -> dict[str, np.ndarray]:
        """The next window's tensors; without ``windows``, those of a request that failed."""
        audio = np.zeros((1, self.contract.window_audio), np.float32)
        before, samples = windows.take(audio[0]) if windows else (0, 0)
        places = {tensors.BEFORE: before, tensors.SAMPLES: samples}
        return {tensors.PADDED_AUDIO: audio} | {k: np.array([[v]], np.int64) for k, v in places.items()}


class Stream:
    """One live stream: its front end, a number that no other stream has, and the failure it died of."""

    def __init__(self, number: int, windows: StreamingWindows | SampleWindows) -> None:
        self.number, self.windows = number, windows
        self.failure: Failure | None = None


class TritonPythonModel:
    """The streaming front end of one exported model. One instance, so that its limit counts all streams."""

    def initialize(self, args: dict) -> None:
        """Read the contract and the front end beside this file; compute one window, so that all is warm."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.contract = StreamingContract.load(FOLDER)
        self.front_end = (Samples if self.contract.front_end == "graph" else Features)(self.contract)
        self.limit = int(parameters["max_streams"]["string_value"])
        self.streams = StreamTable[Stream](self.limit, float(parameters["time_to_live"]["string_value"]))
        self.numbers = itertools.count(1)
        self.front_end.open().feed(np.zeros(self.contract.first_samples, np.float32))

    def execute(self, requests: list) -> list:
        """Answer every request with one response."""
        return answers.answer_each(pb_utils, requests, self._respond)

    def _respond(self, request):
        key, flags = request.correlation_id(), request.flags()
        stream = self._stream(key, flags)
        outputs, frames, failed, over = None, 0, None, bool(flags & END)
        try:
            outputs, frames = self._window(stream, request, over)
        except Exception as error:
            if flags & START:
                over = True
                raise
            failed = answers.failure_of(pb_utils, error)
            stream.failure = stream.failure or failed
        finally:
            if over:
                self.streams.close(key)
        if outputs is None:
            outputs = self.front_end.outputs(None)
        place = [stream.number, stream.windows.taken, frames]
        outputs[tensors.STREAM] = np.array([place], np.int64)
        outputs[tensors.FAILURE] = np.array([[failure.dump(failed).encode()]], np.object_)
        return answers.response(pb_utils, outputs)

    def _stream(self, key: int | str, flags: int) -> Stream:
        stream = self.streams.get(key)
        if not flags & START:
            if stream is None:
                raise UserError("no such stream, or it was idle for too long: begin one with sequence_start")
            return stream
        if stream is not None and stream.failure is None:
            if flags & END:  # Triton has ended the sequence, so that the live stream is over as well
                self.streams.close(key)
            raise UserError("a live stream has this sequence_id: draw ids at random from 1 to 2^63 - 1")
        stream = Stream(next(self.numbers), self.front_end.open())
        if not self.streams.open(key, stream):
            raise Failed(failure.no_room(self.limit))
        return stream

    def _window(self, stream: Stream, request, end: bool) -> tuple[dict[str, np.ndarray], int]:
        """The window's tensors, and the encoder frames to read."""
        contract, windows = self.contract, stream.windows
        if stream.failure is not None:
            sentence = stream.failure.sentence
            raise UserError(f"this stream has failed ({sentence}): end it and begin another")
        rate = pb_utils.get_input_tensor_by_name(request, tensors.RATE)
        if rate is not None and np.any(rate.as_numpy() != contract.sample_rate):
            raise UserError(
                f"sample_rate is {int(rate.as_numpy().flat[0])} Hz; resample the audio to "
                f"{contract.sample_rate} Hz before sending it"
            )
        audio = pb_utils.get_input_tensor_by_name(request, tensors.AUDIO).as_numpy()
        if len(audio) != 1:
            raise UserError(f"audio has {len(audio)} rows; a stream is one")
        start = contract.shift_samples * windows.taken
        contract.check_chunk(windows.samples + audio.shape[1] - start, end)
        samples = checked(audio[0])
        if np.abs(samples).max(initial=0.0) > LOUDEST:
            raise UserError("audio holds values far outside -1..1; scale the samples to -1..1")
        windows.feed(samples)
        if end:
            windows.end()
        frames = min(contract.chunk, max(0, windows.remaining))
        return self.front_end.outputs(windows), frames
