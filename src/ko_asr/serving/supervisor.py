"""A tritonserver kept alive: started, watched, started again when it is dead.

What is dead and what only busy, `ko_asr.serving.health` says. A server that has answered once is never given
up: whatever kills it may stop coming.
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import tritonclient.grpc as triton

from ko_asr.errors import UserError
from ko_asr.runtime import failure
from ko_asr.serving.health import (
    STALL_SECONDS,
    Answer,
    Judge,
    Look,
    Pauses,
    Probe,
    broken_process,
    cpu_seconds,
    process_tree,
)
from ko_asr.serving.server import (
    DYING_WITH_PARENT,
    REPOSITORY_OPTIONS,
    listening_ports,
    option_values,
    probe_request,
    remove_stale_shared_memory,
    served_ensembles,
)

_STOP_SECONDS = 15.0  # what Triton may take to finish what it has accepted
_BROKEN_STOP_SECONDS = 2.0  # with a dead model process it would always take its whole exit timeout
_EVERYWHERE = ("0.0.0.0", "::")
# gRPC would wait up to two minutes before it tries a server again that was not there.
_CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.use_local_subchannel_pool", 1),
]
_SILENT = ("DEADLINE_EXCEEDED", "CANCELLED")
_QUEUE_FULL = "maximum queue size"
_STATISTICS_SECONDS = 1.0  # that a server's counters may take


@dataclass(frozen=True)
class Patience:
    """Seconds that a server is given."""

    probe: float = 20.0  # to answer a probe, before another one is sent
    stall: float = STALL_SECONDS  # without an answer and without work
    start: float = 120.0  # without work, until it has answered for the first time


class Supervisor:
    """Runs ``command`` with tritonserver's ``arguments`` until SIGTERM or SIGINT."""

    def __init__(
        self,
        command: str | Path,
        arguments: Sequence[str],
        *,
        interval: float = 2.0,
        patience: Patience | None = None,
        pauses: Pauses | None = None,
    ) -> None:
        """Look at the server every ``interval`` seconds. UserError without a repository or gRPC."""
        repositories = [value for name in REPOSITORY_OPTIONS for value in option_values(arguments, name)]
        ports = listening_ports(arguments)
        if not repositories or "grpc" not in ports:
            raise UserError(
                "give --model-repository FOLDER, and leave gRPC on: it is how the server is asked"
            )
        address, port = ports["grpc"]
        self.url = f"{'127.0.0.1' if address in _EVERYWHERE else address}:{port}"
        self._command = [str(command), *arguments]
        self._repository = repositories[0]
        self._interval = interval
        self._patience, self._pauses = patience or Patience(), pauses or Pauses()
        self._stop = threading.Event()
        self._server: subprocess.Popen | None = None
        self._answered_at: float | None = None  # the running server's first answers
        self._served = False  # a server has answered, so that its repository and options are good

    def run(self) -> int:
        """Serve until stopped; the server's own status when it was stopped or never came up, else 1."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stopped)
        while True:
            reason = self._start() or self._watch()
            if self._stop.is_set():
                return self._end(_STOP_SECONDS)
            if not self._served:
                return self._give_up(reason)
            served = 0.0 if self._answered_at is None else time.monotonic() - self._answered_at
            pause = self._pauses.after(served)
            _say(f"{reason}: stopping it")
            status = self._end(_BROKEN_STOP_SECONDS)
            _say(f"starting it again in {pause:g} s")
            if self._stop.wait(pause):
                return status

    def _give_up(self, reason: str | None) -> int:
        """End what never answered. A server that has ended by itself has said why."""
        status = None if self._server is None else self._server.poll()
        if status is None:
            _say(f"{reason}: stopping it for good, see the log above")
            status = 1
        self._end(_BROKEN_STOP_SECONDS)
        return status

    def _stopped(self, *_: Any) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.terminate()

    def _start(self) -> str | None:
        """Start the server; a sentence when the machine cannot, for want of memory or processes."""
        remove_stale_shared_memory()
        self._server = self._answered_at = None
        try:
            # In a process group of its own, so that what it started can be ended with it.
            self._server = subprocess.Popen(
                [*DYING_WITH_PARENT, *self._command],
                stdin=_inherited(sys.stdin),
                stdout=_inherited(sys.stdout),
                stderr=_inherited(sys.stderr),
                process_group=0,
            )
        except OSError as error:
            return f"tritonserver cannot be started ({error})"
        if self._stop.is_set():  # the signal came while there was no server to pass it to
            self._server.terminate()
        return None

    def _end(self, seconds: float) -> int:
        """End the server and the processes of its models, of which a stopped one ends by SIGKILL only."""
        if self._server is None:
            return 1
        self._server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._server.wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._server.pid, signal.SIGKILL)
        status = self._server.wait()
        remove_stale_shared_memory()  # Triton leaves it where a stream was open, and where it was killed
        return status if status >= 0 else 128 - status  # as a shell counts signals

    def _watch(self) -> str | None:
        """Wait until the server must be started again, and say why; None when this process is to stop."""
        assert self._server is not None
        with _Watch(self.url, self._repository, self._server.pid, self._patience) as watch:
            while not self._stop.wait(0.2 if self._answered_at is None else self._interval):
                if (status := self._server.poll()) is not None:
                    return f"tritonserver ended with status {status}"
                if self._answered_at is not None:
                    if reason := watch.dead():
                        return f"tritonserver is dead: {reason}"
                elif watch.answers():
                    _say(f"tritonserver answers at {self.url}")
                    self._answered_at, self._served = time.monotonic(), True
                elif not watch.starts():
                    return "tritonserver has not answered and does nothing"
        return None


class _Watch:
    """Looks at one running server: its processes, and every ensemble of its repository."""

    def __init__(self, url: str, repository: str, process: int, patience: Patience) -> None:
        self._client = triton.InferenceServerClient(url, channel_args=_CHANNEL)
        names = served_ensembles(repository)
        self._ensembles = [_Ensemble(self._client, name, patience) for name in names]
        self._process = process
        self._broken_before = False
        self._starting = Judge(time.monotonic(), stall=patience.start)

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def answers(self) -> bool:
        """Ask again, and tell whether every ensemble has answered; a server without one must be ready.

        What answers before the command has become tritonserver is somebody else's, which holds the port.
        """
        if [process.name for process in process_tree(self._process)][:1] != ["tritonserver"]:
            return False
        if not self._ensembles:
            with contextlib.suppress(triton.InferenceServerException):
                return self._client.is_server_ready(client_timeout=_STATISTICS_SECONDS)
        return all([ensemble.answers() for ensemble in self._ensembles])

    def starts(self) -> bool:
        """Whether a server that has not answered yet is at work: it may be loading a large model."""
        look = Look(time.monotonic(), (), None, cpu_seconds(process_tree(self._process)))
        return self._starting.dead(look) is None

    def dead(self) -> str | None:
        """Look at the server, ask again what has answered, and say why the server is dead, if it is."""
        tree = process_tree(self._process)
        broken, before = broken_process(tree), self._broken_before
        self._broken_before = broken is not None
        if broken and before:  # twice: a process ends when its model is unloaded, too
            return broken
        reasons = [ensemble.dead(cpu_seconds(tree)) for ensemble in self._ensembles]
        return next(filter(None, reasons), None)


class _Ensemble:
    """Asks one ensemble, one question at a time; gRPC's threads take the answers."""

    def __init__(self, client: triton.InferenceServerClient, name: str, patience: Patience) -> None:
        self._client, self._name, self._patience = client, name, patience
        self._outcomes: queue.SimpleQueue[Probe] = queue.SimpleQueue()
        self._open = self._answered = False
        self._judge: Judge | None = None

    def answers(self) -> bool:
        """Ask, where no question is open, and tell whether one was answered."""
        self._answered |= any(probe.answer is Answer.ANSWERED for probe in self._ended())
        if not self._answered:
            self._ask()
        return self._answered

    def dead(self, cpu: float) -> str | None:
        """Judge what has come since the last look, ask again, and say why the ensemble is dead, if it is."""
        now = time.monotonic()
        self._judge = self._judge or Judge(now, self._patience.stall)
        probes = self._ended()
        late = all(probe.answer is Answer.SILENT for probe in probes)
        answered = self._requests_answered() if late else None
        reason = self._judge.dead(Look(now, probes, answered, cpu))
        self._ask()
        return reason and f"{self._name}: {reason}"

    def _ended(self) -> tuple[Probe, ...]:
        probes = []
        while not self._outcomes.empty():
            probes.append(self._outcomes.get())
            self._open = False
        return tuple(probes)

    def _ask(self) -> None:
        if self._open:
            return
        self._open = True
        inputs, stream = probe_request(self._name)
        outcomes = self._outcomes
        self._client.async_infer(
            self._name,
            inputs,
            lambda result, error: outcomes.put(_outcome(error)),
            client_timeout=self._patience.probe,
            **stream,
        )

    def _requests_answered(self) -> int | None:
        with contextlib.suppress(triton.InferenceServerException):
            found = self._client.get_inference_statistics(self._name, client_timeout=_STATISTICS_SECONDS)
            return sum(model.inference_stats.success.count for model in found.model_stats)
        return None


def _outcome(error: triton.InferenceServerException | None) -> Probe:
    if error is None:
        return Probe(Answer.ANSWERED)
    status, text = str(error.status()).rpartition(".")[2], " ".join(str(error.message()).split())
    if status in _SILENT:
        return Probe(Answer.SILENT, text)
    if failure.is_full(text) or _QUEUE_FULL in text:
        return Probe(Answer.ANSWERED, text)
    return Probe(Answer.REFUSED if status == "UNAVAILABLE" else Answer.FAILED, text)


def _inherited(stream: TextIO | None) -> int | None:
    """The server's standard stream: /dev/null where ours is closed, of which Triton dies at its end."""
    return subprocess.DEVNULL if stream is None else None


def _say(text: str) -> None:
    """Write a line to standard error. A full disk or a closed pipe there must not end the server."""
    if sys.stderr is None:
        return
    with contextlib.suppress(OSError):
        os.write(2, f"[serve] {text}\n".encode())
