"""Audio of live streams to windows of log-mel features, one window a request.

Every check of a request is here. Triton would never show a request that fails here to the next steps, which
would then keep the stream's slot: so a failure travels on as a tensor, and the decoder answers with it.
"""

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))  # the modules of ko_asr that export copied beside this file

from ko_asr import contract as offline  # noqa: E402
from ko_asr import streaming_contract as names  # noqa: E402
from ko_asr.errors import UserError  # noqa: E402
from ko_asr.logmel import LogMel  # noqa: E402
from ko_asr.stream_table import StreamTable  # noqa: E402
from ko_asr.streaming_windows import StreamingWindows, checked  # noqa: E402

START, END = (
    pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
)


class StreamsFull(UserError):
    """There is no room for another stream."""


class Stream:
    """One live stream: its front end, a number that no other stream has, and why it failed, if it did."""

    def __init__(self, number: int, windows: StreamingWindows) -> None:
        self.number, self.windows, self.failure = number, windows, ""


class TritonPythonModel:
    """The streaming front end of one exported model. One instance, so that its limit counts all streams."""

    def initialize(self, args: dict) -> None:
        """Read the contract and the front end beside this file; compute one window, so that all is warm."""
        parameters = json.loads(args["model_config"])["parameters"]
        self.contract = names.StreamingContract.load(FOLDER)
        self.log_mel = LogMel.load(FOLDER / names.FRONT_END_NAME)
        self.limit = int(parameters["max_streams"]["string_value"])
        self.streams = StreamTable[Stream](self.limit, float(parameters["time_to_live"]["string_value"]))
        self.numbers = itertools.count(1)
        self.nothing = np.zeros((1, self.contract.mels, self.contract.window_frames), np.float32)
        StreamingWindows(self.contract, self.log_mel).feed(np.zeros(self.contract.first_samples, np.float32))

    def execute(self, requests: list) -> list:
        """One response a request."""
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        key, flags = request.correlation_id(), request.flags()
        stream, features, length, frames, failure = None, self.nothing, 0, 0, ""
        try:
            stream = self._stream(key, flags)
            features, length, frames = self._window(stream, request, bool(flags & END))
        except StreamsFull as error:
            failure = f"UNAVAILABLE {error}"
        except UserError as error:
            failure = f"INVALID_ARG {error}"
            if stream is not None:
                stream.failure = str(error)
        if flags & END:
            self.streams.close(key)
        place = [stream.number, stream.windows.taken, frames] if stream else [0, 0, 0]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor(offline.FEATURES, features),
                pb_utils.Tensor(offline.LENGTH, np.array([[length]], np.int64)),
                pb_utils.Tensor(names.STREAM, np.array([place], np.int64)),
                pb_utils.Tensor(names.FAILURE, np.array([[failure.encode()]], np.object_)),
            ]
        )

    def _stream(self, key: int, flags: int) -> Stream:
        if flags & START:
            stream = Stream(next(self.numbers), StreamingWindows(self.contract, self.log_mel))
            if not self.streams.open(key, stream):
                raise StreamsFull(f"all {self.limit} {names.FULL}; try again later")
            return stream
        stream = self.streams.get(key)
        if stream is None:
            raise UserError("no such stream, or it was idle for too long: begin one with sequence_start")
        if stream.failure:
            raise UserError(f"this stream has failed ({stream.failure}): end it and begin another")
        return stream

    def _window(self, stream: Stream, request, end: bool) -> tuple[np.ndarray, int, int]:
        """Features [1, mels, window], how many of its frames are valid, and the encoder frames to read."""
        contract, windows = self.contract, stream.windows
        rate = pb_utils.get_input_tensor_by_name(request, offline.RATE)
        if rate is not None and np.any(rate.as_numpy() != contract.sample_rate):
            raise UserError(
                f"sample_rate is {int(rate.as_numpy().flat[0])} Hz; resample the audio to "
                f"{contract.sample_rate} Hz before sending it"
            )
        audio = pb_utils.get_input_tensor_by_name(request, offline.AUDIO).as_numpy()
        if len(audio) != 1:
            raise UserError(f"audio has {len(audio)} rows; a stream is one")
        start = contract.shift_samples * windows.taken
        contract.check_chunk(windows.samples + audio.shape[1] - start, end)
        windows.feed(checked(audio[0]))
        if end:
            windows.end()
        features = np.empty_like(self.nothing)
        frames = min(contract.chunk, max(0, windows.remaining))
        length = windows.take(features[0])
        if not np.isfinite(features).all():
            raise UserError("audio holds values far outside -1..1; scale the samples to -1..1")
        return features, length, frames
