"""ONNX Runtime as a python-based Triton backend, for servers that lack the native one.

NVIDIA's containers carry a native ``onnxruntime`` backend; the server from PyPI does not. This file in
``backends/onnxruntime/`` makes a repository whose config says ``backend: "onnxruntime"`` load there
unmodified. It reads the same model file name and the same parameters as the native backend
(``intra_op_thread_count``, ``inter_op_thread_count``), always runs on the CPU, and takes batches of
requests whose inputs have one shape, as the dynamic batcher forms them.

Two parameters of its own, which the native backend ignores, keep long requests from taking memory and time of
short ones. A step is one place of the last axis of the model's first input.

- ``max_run_steps``: most steps times rows of one run of the graph. A larger batch is run in parts, and a
  request of more steps is refused.
- ``long_steps``: a request of more steps is answered in the background (`Background`), and the memory that
  such runs took is given back to the system when no more of them come.

Triton ignores the ``state`` section of ``sequence_batching`` for Python backends, so implicit state is kept
here by correlation id, zeros at a sequence's start, and forgotten ``time_to_live`` seconds (a parameter)
after its last request, because nobody tells a Python model that a client has vanished.
"""

import contextlib
import ctypes
import functools
import json
import os
import queue
import socket
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator
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


class Graph:
    """A graph's session, and what one run of it may take.

    ONNX Runtime keeps the memory of its largest run, as glibc does behind it: eight minutes of audio in one
    batch took 3 GB for good. So a run is bounded, and memory that only long runs need is given back.
    """

    def __init__(self, session: onnxruntime.InferenceSession, first_input: str, parameters: dict) -> None:
        self.session = session
        self._first = first_input
        self.max_run_steps = int(parameters.get("max_run_steps", "0"))
        self._smallest: dict[str, np.ndarray] | None = None

    def steps(self, feed: dict[str, np.ndarray]) -> int:
        """The length of the last axis of the first input in ``feed``."""
        return feed[self._first].shape[-1]

    def run(self, wanted: list[str], feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs ``wanted`` for the rows of ``feed``, in as many runs as their size asks for."""
        rows, most = len(feed[self._first]), self._rows_of_a_run(feed)
        parts = [
            self.session.run(wanted, {name: array[start : start + most] for name, array in feed.items()})
            for start in range(0, rows, most)
        ]
        if self._smallest is None or feed[self._first].size < self._smallest[self._first].size:
            self._smallest = {name: array.copy() for name, array in feed.items()}  # which runs
        outputs = parts[0] if len(parts) == 1 else map(np.concatenate, zip(*parts, strict=True))
        return dict(zip(wanted, outputs, strict=True))

    def _rows_of_a_run(self, feed: dict[str, np.ndarray]) -> int:
        if not self.max_run_steps:
            return max(1, len(feed[self._first]))
        return max(1, self.max_run_steps // max(1, self.steps(feed)))

    def give_memory_back(self) -> None:
        """Return to the system what no run of short requests needs.

        ONNX Runtime gives up what its arena does not use at the end of a run that asks for it: here the
        smallest so far, done once more.
        """
        if self._smallest is None:
            return
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self.session.run(None, self._smallest, options)
        ctypes.CDLL(None).malloc_trim(0)


class Invalid(ValueError):
    """A request that the graph cannot take; the message gives the reason."""


def log(error: Exception) -> None:
    """Write ``error`` with its traceback to the server's log."""
    pb_utils.Logger.log_error("".join(traceback.format_exception(error)))


def refusal(error: Exception):
    """The response to a request that failed: a sentence, while what nobody foresaw goes to the log."""
    if isinstance(error, Invalid):
        failure = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    else:
        log(error)
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
_BACKGROUND_NICENESS = 5  # a third of the processor time of a short run beside it (sched(7))
_IDLE_SECONDS = 1.0  # without a long request, after which their memory is given back


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


class Seats:
    """``count`` places that the processes of one model's instances share; one that dies leaves its own."""

    def __init__(self, model: str, count: int) -> None:
        # Names without a file (unix(7), abstract sockets) in which the server that runs the model stands.
        server = os.getppid()
        started = Path(f"/proc/{server}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        self._names = [f"\0ko_asr_{server}_{started}_{model}_{seat}" for seat in range(count)]

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place, after waiting for one."""
        while True:
            for name in self._names:
                with socket.socket(socket.AF_UNIX) as place:
                    try:
                        place.bind(name)
                    except OSError:  # taken
                        continue
                    yield
                    return
            time.sleep(0.005)


class Background:
    """Long requests, answered beside the short ones and behind them.

    A short request would wait for a whole run of a long one, and Triton has no way to set a run aside. So
    threads of lower priority run the long ones: the kernel gives a short run most of a core at once. As many
    long runs go on as the model has instances (`Seats`), whichever instance Triton gave the requests to; each
    instance has a thread a seat, so that none stays empty.
    """

    def __init__(self, graph: Graph, seats: Seats, threads: int) -> None:
        self._graph, self._seats = graph, seats
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._lock, self._running, self._memory_taken = threading.Lock(), 0, False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def add(self, job: Callable[[], None]) -> None:
        """Run ``job`` when those before it have been begun."""
        self._jobs.put(functools.partial(self._run, job))

    def close(self) -> None:
        """Do what was added, and end."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        with contextlib.suppress(OSError):  # Linux: of this thread alone
            niceness = os.getpriority(os.PRIO_PROCESS, 0) + _BACKGROUND_NICENESS
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        while True:
            try:
                job = self._jobs.get(timeout=_IDLE_SECONDS if self._memory_taken else None)
            except queue.Empty:
                job = self._give_memory_back
            if job is None:
                return
            try:
                job()
            except Exception as error:  # a thread that ended would leave all that wait without an answer
                log(error)

    def _run(self, job: Callable[[], None]) -> None:
        with self._seats.one():
            with self._lock:
                self._running, self._memory_taken = self._running + 1, True
            try:
                job()
            finally:
                with self._lock:
                    self._running -= 1

    def _give_memory_back(self) -> None:
        with self._lock:
            if self._memory_taken and not self._running:
                self._memory_taken = False
                self._graph.give_memory_back()


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
        self.graph = Graph(self.session, self.inputs[0], parameters)
        self.sequences = self.background = None
        if (config.get("sequence_batching") or {}).get("state"):
            self.sequences = Sequences(config, float(parameters.get("time_to_live", _TIME_TO_LIVE)))
        elif "long_steps" in parameters:
            self.long_steps = int(parameters["long_steps"])
            instances = sum(int(group.get("count", 1)) for group in config["instance_group"])
            self.background = Background(self.graph, Seats(config["name"], instances), instances)

    def finalize(self) -> None:
        """Answer what is still being run."""
        if self.background is not None:
            self.background.close()

    def execute(self, requests: list) -> list:
        """Answer every request, or put it into the background (None); what fails, fails alone."""
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
            remaining = [index for index in group if responses[index] is None]
            if not remaining:
                continue
            if self.background is None or self.graph.steps(batches[group[0]]) <= self.long_steps:
                self._answer(remaining, requests, batches, responses)
                continue
            for index in remaining:
                self._answer_later(requests[index], batches[index])
        return responses

    def _inputs(self, request) -> dict[str, np.ndarray]:
        """The inputs of ``request``; Invalid where they cannot be batched with those of others."""
        if self.sequences is not None and not self.sequences.knows(request):
            raise Invalid("no such sequence, or it was idle for too long: begin one with sequence_start")
        inputs = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs}
        for name, array in inputs.items():
            if not array.size:
                raise Invalid(f"{name} is empty")
            # Dynamic int8 takes its scale from the whole batch.
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Invalid(f"{name} holds NaN or infinite values")
        steps, most = self.graph.steps(inputs), self.graph.max_run_steps
        if most and steps > most:
            raise Invalid(f"{self.inputs[0]} has {steps} steps; the most is {most}")
        return inputs

    def _answer_later(self, request, inputs: dict) -> None:
        sender, names = request.get_response_sender(), request.requested_output_names()
        feed = {name: array.copy() for name, array in inputs.items()}  # the request's memory is Triton's

        def job() -> None:
            sender.send(self._respond(names, feed), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        self.background.add(job)

    def _respond(self, names: list[str], feed: dict):
        try:
            outputs = self.graph.run(list(names), feed)
        except Exception as error:  # onnxruntime raises many kinds
            return refusal(error)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, outputs[name]) for name in names])

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
            return self.graph.run(wanted, feed)
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
