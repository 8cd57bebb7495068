"""A tritonserver kept alive: started, asked for inferences, started again when it does not answer.

Triton never restarts a model process that was killed and stays "ready" without it, so being alive is to
answer an inference of every ensemble (`ko_asr.serving.server.is_alive`).
"""

import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.serving.server import (
    DYING_WITH_PARENT,
    REPOSITORY_OPTIONS,
    is_alive,
    listening_ports,
    option_values,
    remove_stale_shared_memory,
)

_STOP_SECONDS = 15.0  # what Triton may take to finish what it has accepted
_BROKEN_STOP_SECONDS = 2.0  # with a dead model process it would always take its whole exit timeout
_EVERYWHERE = ("0.0.0.0", "::")


class Supervisor:
    """Runs ``command`` with tritonserver's ``arguments`` until SIGTERM or SIGINT."""

    def __init__(
        self,
        command: str | Path,
        arguments: Sequence[str],
        *,
        interval: float = 2.0,
        misses: int = 2,
        start_seconds: float = 120.0,
        restarts: int = 5,
    ) -> None:
        """Probe every ``interval`` seconds, restart after ``misses`` failures in a row.

        Gives up after ``restarts`` restarts within ten minutes. UserError without a repository or gRPC.
        """
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
        self._interval, self._misses = interval, misses
        self._start_seconds, self._restarts = start_seconds, restarts
        self._stop = threading.Event()
        self._server: subprocess.Popen | None = None
        self._served = False  # it has answered, so that its repository and options are good

    def run(self) -> int:
        """Serve until stopped; the server's own status when it was stopped or never came up, else 1."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stopped)
        failures: deque[float] = deque(maxlen=self._restarts)
        while True:
            self._start()
            reason = self._watch()
            if self._stop.is_set() or reason is None:
                return self._end(_STOP_SECONDS)
            _say(f"{reason}: stopping it")
            self._end(_BROKEN_STOP_SECONDS)
            if len(failures) == self._restarts and time.monotonic() - failures[0] < 600:
                _say(f"{self._restarts} restarts in ten minutes did not help: see the log above")
                return 1
            failures.append(time.monotonic())
            _say("starting it again")

    def _stopped(self, *_: Any) -> None:
        self._stop.set()
        if self._server is not None:
            self._server.terminate()

    def _start(self) -> None:
        remove_stale_shared_memory()
        self._server = subprocess.Popen([*DYING_WITH_PARENT, *self._command])
        if self._stop.is_set():  # the signal came while there was no server to pass it to
            self._server.terminate()

    def _end(self, seconds: float) -> int:
        assert self._server is not None
        self._server.terminate()
        try:
            return self._server.wait(seconds)
        except subprocess.TimeoutExpired:
            self._server.kill()
            return self._server.wait()

    def _watch(self) -> str | None:
        """Wait until the server must be started again, and say why; None when that would not help."""
        assert self._server is not None
        deadline, started, missed = time.monotonic() + self._start_seconds, False, 0
        while not self._stop.wait(self._interval if started else 0.2):
            if (status := self._server.poll()) is not None:
                return f"tritonserver ended with status {status}" if self._served else None
            if is_alive(self.url, self._repository):
                if not started:
                    _say(f"tritonserver answers at {self.url}")
                self._served, started, missed = True, True, 0
                continue
            missed += 1
            if started and missed >= self._misses:
                return "tritonserver does not answer inferences"
            if not started and time.monotonic() > deadline:
                return f"tritonserver did not answer within {self._start_seconds:g} s"
        return None


def _say(text: str) -> None:
    print(f"[serve] {text}", file=sys.stderr, flush=True)
