"""Ask a Triton server for one inference of every ensemble that takes audio, over HTTP.

    python3 export/healthcheck.py --url 127.0.0.1:8000

Exit status 0 when all answer, 1 when not, with the reason in one line. Triton's own ready endpoint stays
true when a model's process has died, and Triton never starts that process again; with --stop PID the server
is ended then, so that a restart policy brings it back. It is not ended for being slow, full or not ready yet.

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
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

AUDIO = "audio"  # the input that every ensemble of this project takes
SILENCE = [0.0] * 1600  # 100 ms at 16 kHz: more than any front end's window
CONFIRM = 1.0  # seconds until a failed model is asked again
UNAVAILABLE = 503  # no stream is free, or a queue is full: busy, not dead


class NotReady(Exception):
    """The server cannot be asked, or not in time."""


class ModelFailed(Exception):
    """A loaded model answers an inference with an error."""


@dataclass(frozen=True)
class Server:
    """The HTTP side of one Triton server, to be asked before ``deadline`` (of `time.monotonic`)."""

    url: str
    deadline: float

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and parsed JSON (None for an empty body) of one request."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise NotReady("no answer in time")
        text = None if body is None else json.dumps(body)
        try:
            with contextlib.closing(http.client.HTTPConnection(self.url, timeout=left)) as connection:
                connection.request(method, path, text, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
            return response.status, json.loads(answer) if answer else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotReady(f"no answer to {path} ({error})") from error

    def get(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of a request that must succeed."""
        status, answer = self.ask(method, path, body)
        if status != 200:
            raise NotReady(f"{path} answers {status}")
        return answer

    def ensembles(self) -> dict[str, bool]:
        """Name -> True for streams, of each loaded ensemble whose only required input is audio."""
        loaded = [
            m["name"] for m in self.get("POST", "/v2/repository/index", {}) if m.get("state") == "READY"
        ]
        configs = {name: self.get("GET", f"/v2/models/{quote(name)}/config") for name in loaded}
        found = {}
        for name, config in configs.items():
            required = [tensor["name"] for tensor in config.get("input", []) if not tensor.get("optional")]
            if config.get("platform") == "ensemble" and required == [AUDIO]:
                steps = [step["model_name"] for step in config["ensemble_scheduling"]["step"]]
                found[name] = any("sequence_batching" in configs.get(step, {}) for step in steps)
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
        """Ask every ensemble, and return their names. NotReady or ModelFailed when one does not answer."""
        self.get("GET", "/v2/health/ready")
        found = self.ensembles()
        for name, stream in found.items():
            self.infer(name, stream)
        return sorted(found)


def ask_twice(url: str, timeout: float) -> list[str]:
    """Ask once more after a failure, because one error may be one request's bad luck."""
    server = Server(url, time.monotonic() + timeout)
    with contextlib.suppress(ModelFailed):
        return server.answering()
    time.sleep(CONFIRM)
    return server.answering()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="127.0.0.1:8000", help="HTTP address (default 127.0.0.1:8000)")
    parser.add_argument("--timeout", type=float, default=4.0, help="seconds for everything (default 4)")
    parser.add_argument("--stop", type=int, metavar="PID", help="end this process when a model is dead")
    options = parser.parse_args()
    try:
        names = ask_twice(options.url, options.timeout)
    except NotReady as error:
        print(f"{options.url} is not ready: {error}")
        return 1
    except ModelFailed as error:
        print(f"{options.url} has lost a model: {error}")
        if options.stop is not None:
            os.kill(options.stop, signal.SIGTERM)
        return 1
    print(f"{options.url} is alive: {', '.join(names) or 'no ensemble'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
