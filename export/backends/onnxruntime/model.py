"""ONNX Runtime as a python-based Triton backend, for servers that lack the native one.

NVIDIA's containers carry a native ``onnxruntime`` backend; the server from PyPI does not. This file in
``backends/onnxruntime/`` makes a repository whose config says ``backend: "onnxruntime"`` load there
unmodified. It reads the same model file name and the same parameters as the native backend
(``intra_op_thread_count``, ``inter_op_thread_count``), always runs on the CPU, and takes batches of
requests whose inputs have one shape, as the dynamic batcher forms them.

Triton ignores the ``state`` section of ``sequence_batching`` for Python backends, so implicit state is kept
here by correlation id, zeros at a sequence's start, and forgotten ``time_to_live`` seconds (a parameter)
after its last request, because nobody tells a Python model that a client has vanished.
"""

import json
import time
import traceback
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


def session_of(path: Path, parameters: dict) -> onnxruntime.InferenceSession:
    """Open the graph with the threads of the model's parameters (native defaults: all cores)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(parameters.get("intra_op_thread_count", "0"))
    options.inter_op_num_threads = int(parameters.get("inter_op_thread_count", "0"))
    # Instances share the cores with other models: a pool that spins takes their time.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class Invalid(ValueError):
    """A request that the graph cannot take; the message gives the reason."""


def refusal(error: Exception):
    """The response to a request that failed: a sentence, while what nobody foresaw goes to the log."""
    if isinstance(error, Invalid):
        failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    else:
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
        sentence = "the model failed on this request, and the server's log says how: send it again"
        failure = pb_utils.TritonError(sentence, pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(error=failure)


def same_shape_groups(batches: list[dict]) -> list[list[int]]:
    """Indices of requests grouped by the shapes of their inputs without the batch axis."""
    groups: dict[tuple, list[int]] = {}
    for index, inputs in enumerate(batches):
        groups.setdefault(tuple((name, array.shape[1:]) for name, array in inputs.items()), []).append(index)
    return list(groups.values())


START, END = (
    pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START,
    pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END,
)
_TIME_TO_LIVE = 60.0  # seconds, where the model's parameters do not say


class Sequences:
    """The implicit state of a model, by correlation id, least recently used first.

    A batch is put together in arrays that stay, and the graph writes the state that it leaves into others:
    allocated anew for every batch, states of a megabyte a stream took almost as much time as the graph.
    """

    def __init__(self, config: dict, time_to_live: float) -> None:
        entries = config["sequence_batching"]["state"]
        self.outputs = [entry["output_name"] for entry in entries]
        self._inputs = [entry["input_name"] for entry in entries]
        self._before, self._after = ([self._rows(config, entry) for entry in entries] for _ in range(2))
        self._time_to_live = time_to_live
        self._states: OrderedDict[int, tuple[float, list[np.ndarray]]] = OrderedDict()

    @staticmethod
    def _rows(config: dict, entry: dict) -> np.ndarray:
        (initial,) = entry["initial_state"]
        if not initial.get("zero_data"):
            raise ValueError(f"state {entry['input_name']}: this backend starts states with zero_data only")
        dtype = pb_utils.triton_string_to_numpy(entry["data_type"])
        return np.empty([max(1, int(config["max_batch_size"])), *map(int, entry["dims"])], dtype)

    def expire(self) -> None:
        """Forget the sequences of clients that have vanished."""
        oldest_allowed = time.monotonic() - self._time_to_live
        while self._states and next(iter(self._states.values()))[0] < oldest_allowed:
            self._states.popitem(last=False)

    def knows(self, request) -> bool:
        """True when there is a state for ``request``, or it begins one."""
        return bool(request.flags() & START) or request.correlation_id() in self._states

    def before(self, requests: list) -> dict[str, np.ndarray]:
        """The state that ``requests`` find, by input name, each [requests, ...]; good until the next call."""
        for row, request in enumerate(requests):
            if request.flags() & START:
                for batch in self._before:
                    batch[row] = 0
                continue
            for batch, state in zip(self._before, self._states[request.correlation_id()][1], strict=True):
                batch[row] = state
        rows = [batch[: len(requests)] for batch in self._before]
        return dict(zip(self._inputs, rows, strict=True))

    def places(self, rows: int) -> dict[str, np.ndarray]:
        """Places for the state that the graph writes after a batch of ``rows``, by output name."""
        return dict(zip(self.outputs, (batch[:rows] for batch in self._after), strict=True))

    def keep(self, requests: list) -> None:
        """Keep what the graph wrote into `places`, and forget the sequences that have ended."""
        for row, request in enumerate(requests):
            key = request.correlation_id()
            _, state = self._states.pop(key, (0.0, None))
            if request.flags() & END:
                continue
            if state is None:
                state = [np.empty_like(batch[row]) for batch in self._after]
            for kept, batch in zip(state, self._after, strict=True):
                kept[...] = batch[row]
            self._states[key] = (time.monotonic(), state)


class TritonPythonModel:
    """One instance: one session."""

    def initialize(self, args: dict) -> None:
        """Load the model file of this version. Raises when it is missing or not a graph."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        path = folder / (config.get("default_model_filename") or "model.onnx")
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.session = session_of(path, parameters)
        self.inputs = [entry["name"] for entry in config["input"]]
        self.sequences = None
        if (config.get("sequence_batching") or {}).get("state"):
            self.sequences = Sequences(config, float(parameters.get("time_to_live", _TIME_TO_LIVE)))

    def execute(self, requests: list) -> list:
        """Answer every request; what fails, fails alone."""
        responses: list = [None] * len(requests)
        if self.sequences is not None:
            self.sequences.expire()
        batches: list[dict] = []
        for index, request in enumerate(requests):
            batches.append({})
            try:
                batches[index] = self._inputs(request)
            except Exception as error:  # of any kind: its mates are answered all the same
                responses[index] = refusal(error)
        for group in same_shape_groups(batches):
            if remaining := [index for index in group if responses[index] is None]:
                self._answer(remaining, requests, batches, responses)
        return responses

    def _inputs(self, request) -> dict[str, np.ndarray]:
        """The inputs of ``request``; Invalid where they cannot be batched with those of others."""
        if self.sequences is not None and not self.sequences.knows(request):
            raise Invalid("no such sequence, or it was idle for too long: begin one with sequence_start")
        inputs = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        for name, array in inputs.items():
            # Dynamic int8 takes its scale from the whole batch.
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Invalid(f"{name} holds NaN or infinite values")
        return inputs

    def _answer(self, group: list[int], requests: list, batches: list[dict], responses: list) -> None:
        names = {index: requests[index].requested_output_names() for index in group}
        wanted = sorted(set().union(*names.values()))
        try:
            outputs = self._run(wanted, [batches[index] for index in group], [requests[i] for i in group])
        except Exception as error:  # onnxruntime raises many kinds; one bad request must not fail its mates
            if len(group) > 1:
                for index in group:
                    self._answer([index], requests, batches, responses)
                return
            responses[group[0]] = refusal(error)
            return
        start = 0
        for index in group:
            rows = slice(start, start + len(batches[index][self.inputs[0]]))
            start = rows.stop
            responses[index] = pb_utils.InferenceResponse(
                [pb_utils.Tensor(name, outputs[name][rows]) for name in names[index]]
            )

    def _run(self, wanted: list[str], batches: list[dict], requests: list) -> dict:
        if len(batches) == 1:
            feed = batches[0]
        else:
            feed = {name: np.concatenate([inputs[name] for inputs in batches]) for name in batches[0]}
        if self.sequences is None:
            return dict(zip(wanted, self.session.run(wanted, feed), strict=True))
        binding = self.session.io_binding()
        for name, array in (feed | self.sequences.before(requests)).items():
            binding.bind_cpu_input(name, array)
        for name in wanted:
            binding.bind_output(name)
        for name, array in self.sequences.places(len(requests)).items():
            binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        self.session.run_with_iobinding(binding)
        self.sequences.keep(requests)
        return dict(zip(wanted, (value.numpy() for value in binding.get_outputs()), strict=False))
