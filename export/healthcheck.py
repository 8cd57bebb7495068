"""Look at a Triton server's processes, and ask every ensemble that takes audio for an inference over HTTP.

    python3 export/healthcheck.py --url 127.0.0.1:8000

Exit status 0 when all answer, or when the server is late but works; 1 when not, with the reason in one line.
Triton's own ready endpoint stays true when a model's process has died, and Triton never starts that process
again. With --stop PID the server is ended then, so that a restart policy brings it back, and when checks for
half a minute find that it neither answers nor works. It is not ended for being slow, full or not ready yet.

Standard library only: this runs inside NVIDIA's container, which has no tritonclient.
"""

import argparse
import contextlib
import http.client
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

sys.path.append(str(Path(__file__).resolve().parents[1] / "src"))

from ko_asr.serving.health import (
    STALL_SECONDS,
    UNHEALTHY,
    broken_process,
    computes,
    cpu_seconds,
    process_tree,
    server_at,
)

AUDIO = "audio"  # the input that every ensemble of this project takes
SILENCE = [0.0] * 1600  # 100 ms at 16 kHz: more than any front end's window
CONFIRM = 1.0  # seconds until a failed model is asked again
RESERVE = 1.0  # seconds kept for the counters of a server that is late
UNAVAILABLE = 503  # no stream is free, or a queue is full: busy, not dead
MOST_PROBES = 8  # of one ensemble
LOCAL = ("127.0.0.1", "localhost", "::1")


class NotReady(Exception):
    """The server cannot be asked."""


class Late(Exception):
    """The server does not answer in time."""


class ModelFailed(Exception):
    """A loaded model answers an inference with an error, or its process does not run."""


@dataclass(frozen=True)
class Server:
    """The HTTP side of one Triton server, to be asked before ``deadline`` (of `time.monotonic`)."""

    url: str
    deadline: float

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and parsed JSON (None for an empty body) of one request."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Late(f"no answer to {path} in time")
        text = None if body is None else json.dumps(body)
        try:
            with contextlib.closing(http.client.HTTPConnection(self.url, timeout=left)) as connection:
                connection.request(method, path, text, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
            return response.status, json.loads(answer) if answer else None
        except TimeoutError as error:
            raise Late(f"no answer to {path} in time") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotReady(f"no answer to {path} ({error})") from error

    def get(self, path: str) -> Any:
        """The JSON of a request that must succeed."""
        status, answer = self.ask("GET", path)
        if status != 200:
            raise NotReady(f"{path} answers {status}")
        return answer

    def answered(self) -> dict[str, int]:
        """Name -> requests answered so far, of each loaded model."""
        models = self.get("/v2/models/stats")["model_stats"]
        return {model["name"]: model["inference_stats"]["success"]["count"] for model in models}

    def ensembles(self) -> dict[str, tuple[bool, int]]:
        """Name -> (True for streams, probes that reach each process) of the ensembles that take audio."""
        configs = {name: self.get(f"/v2/models/{quote(name)}/config") for name in self.answered()}
        found = {}
        for name, config in configs.items():
            required = [tensor["name"] for tensor in config.get("input", []) if not tensor.get("optional")]
            if config.get("platform") == "ensemble" and required == [AUDIO]:
                steps = [
                    configs.get(step["model_name"], {}) for step in config["ensemble_scheduling"]["step"]
                ]
                groups = [group for step in steps for group in step.get("instance_group", [])]
                most = max((int(group.get("count", 1)) for group in groups), default=1)
                found[name] = any("sequence_batching" in step for step in steps), min(most, MOST_PROBES)
        return found

    def infer(self, name: str, stream: bool) -> None:
        """Ask for silence, or for a stream that begins and ends with it. ModelFailed when the model fails."""
        samples = [] if stream else SILENCE
        body: dict[str, Any] = {
            "inputs": [{"name": AUDIO, "datatype": "FP32", "shape": [1, len(samples)], "data": samples}]
        }
        if stream:
            sequence = secrets.randbelow(2**63 - 1) + 1
            body["parameters"] = {"sequence_id": sequence, "sequence_start": True, "sequence_end": True}
        status, answer = self.ask("POST", f"/v2/models/{quote(name)}/infer", body)
        if status not in (200, UNAVAILABLE):
            reason = answer.get("error") if isinstance(answer, dict) else answer
            raise ModelFailed(f"{name} answers {status}: {' '.join(str(reason).split())}")

    def answering(self) -> list[str]:
        """Ask every ensemble, and return their names. Raises when one does not answer.

        Triton gives an idle model's requests to its processes in turn.
        """
        self.get("/v2/health/ready")
        found = self.ensembles()
        for name, (stream, probes) in found.items():
            for _ in range(probes):
                self.infer(name, stream)
        return sorted(found)


def look_at_processes(pid: int | None) -> None:
    """Raise ModelFailed when a process of the server ``pid`` does not run."""
    for confirmed in (False, True):
        broken = broken_process(process_tree(pid)) if pid else None
        if broken is None:
            return
        if not confirmed:  # a process ends when its model is unloaded, too
            time.sleep(CONFIRM / 2)
    raise ModelFailed(broken)


def ask_twice(server: Server) -> list[str]:
    """Ask once more after a failure, because one error may be one request's bad luck."""
    try:
        return server.answering()
    except ModelFailed as error:
        if UNHEALTHY in str(error):  # Triton has looked at the process
            raise
    time.sleep(CONFIRM)
    return server.answering()


def process_of(url: str) -> int | None:
    """The process id of the server at ``url``, where it is one of this machine."""
    address = urlsplit(f"//{url}")
    return server_at(address.port or 80) if address.hostname in LOCAL else None


def check(url: str, timeout: float, pid: int | None) -> str:
    """What the server at ``url`` is, if it lives. Raises NotReady, Late or ModelFailed when it does not."""
    began = time.monotonic()
    look_at_processes(pid)
    cpu, counters = cpu_seconds(process_tree(pid)) if pid else 0.0, {}
    measured = time.monotonic()
    patient = Server(url, began + timeout)
    try:
        counters = patient.answered()
        names = ask_twice(Server(url, began + timeout - RESERVE))
    except Late:
        if pid and computes(cpu_seconds(process_tree(pid)) - cpu, time.monotonic() - measured):
            return "busy"
        if any(count > counters.get(name, count) for name, count in patient.answered().items()):
            return "busy"
        raise
    return f"alive: {', '.join(names) or 'no ensemble'}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="127.0.0.1:8000", help="HTTP address (default 127.0.0.1:8000)")
    parser.add_argument("--timeout", type=float, default=4.0, help="seconds for everything (default 4)")
    parser.add_argument("--stop", type=int, metavar="PID", help="end this process when a model is dead")
    options = parser.parse_args()
    try:
        state = check(options.url, options.timeout, options.stop or process_of(options.url))
    except (NotReady, Late) as error:
        print(f"{options.url} is not ready: {error}")
        if options.stop and hangs(options.stop, isinstance(error, Late)):
            end(options.stop)
        return 1
    except ModelFailed as error:
        print(f"{options.url} has lost a model: {error}")
        if options.stop:
            end(options.stop)
        return 1
    if options.stop:
        hangs(options.stop, False)
    print(f"{options.url} is {state}")
    return 0


def hangs(pid: int, late: bool) -> bool:
    """Whether the checks in a row that found the server ``late``, this one too, span a stall's seconds.

    A file remembers the first of them.
    """
    mark = Path(tempfile.gettempdir(), f"ko_asr_late_{pid}")
    if not late:
        mark.unlink(missing_ok=True)
        return False
    if not mark.exists():
        mark.touch()
    return time.time() - mark.stat().st_mtime >= STALL_SECONDS


def end(pid: int) -> None:
    """End the server, which may be stopped and then would not see the signal."""
    os.kill(pid, signal.SIGTERM)
    os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    sys.exit(main())
