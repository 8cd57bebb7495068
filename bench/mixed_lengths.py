"""Measure short clips beside long ones: how long they wait, what that costs, and what memory is left taken.

    python bench/mixed_lengths.py --repository triton/
    python bench/mixed_lengths.py --size l                  # random weights

Some clients send long clips one after another, one sends a short clip every quarter of a second. The
repository as exported, whose encoder answers long clips in the background, is compared with a copy whose
encoder has one queue for all (the same without ``long_steps`` and ``max_run_steps``). Each gets a server of
its own in every round, alternating. Memory is that of all the server's processes: after short clips, at most
during the load, and three seconds after it.
"""

import argparse
import functools
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from offline_ensemble import SAMPLE_RATE, exported, machine, model_file
from processes import memory_megabytes
from tritonclient.grpc import model_config_pb2 as pb

from ko_asr.client.offline import AsrClient
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.runtime import tensors
from ko_asr.runtime.contract import Contract
from ko_asr.serving.model_config import write_config
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
EXPORTED, ONE_QUEUE = "as exported", "one queue"
PAUSE = 0.25  # seconds between short clips
QUIET = 3.0  # seconds after the load, before memory is looked at


def one_queue(repository: Path, folder: Path) -> Path:
    """Copy ``repository`` into ``folder``, its encoder without what tells long clips from short ones."""
    copy = folder / "one_queue"
    shutil.copytree(repository, copy)
    path = copy / tensors.ENCODER / "config.pbtxt"
    config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    for key in ("long_steps", "max_run_steps"):
        if key not in config.parameters:
            raise UserError(f"{path} has no parameter {key}: export the model again, for target=onnx")
        del config.parameters[key]
    write_config(path.parent, config)
    return copy


class Load:
    """Clients in threads until `stop`: what they sent and how long each request took."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []

    def add(self, url: str, audio: np.ndarray, pause: float) -> list[float]:
        """Send ``audio`` again and again; the seconds each took, as they come."""
        taken: list[float] = []

        def loop() -> None:
            try:
                with AsrClient(url, timeout=300) as client:
                    while not self._stop.is_set():
                        started = time.perf_counter()
                        client.transcribe(audio)
                        taken.append(time.perf_counter() - started)
                        self._stop.wait(pause)
            except BaseException as error:
                self._failures.append(error)

        self._threads.append(threading.Thread(target=loop))
        self._threads[-1].start()
        return taken

    def stop(self) -> None:
        """Wait for the last answers; raise what failed."""
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self._failures:
            raise self._failures[0]


@contextmanager
def highest(read: Callable[[], float]) -> Iterator[list[float]]:
    """Collect ``read()`` four times a second."""
    found, stop = [read()], threading.Event()

    def loop() -> None:
        while not stop.wait(0.25):
            found.append(read())

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def measure(options: argparse.Namespace, repository: Path, with_short: bool = True) -> dict[str, Any]:
    """One round with a server of its own."""
    noise = np.random.default_rng(0).standard_normal(int(options.long_seconds * SAMPLE_RATE))
    long = (0.1 * noise).astype(np.float32)
    short = long[: int(options.short_seconds * SAMPLE_RATE)]
    with TritonServer(repository, options.server) as server:
        with AsrClient(server.url) as client:
            for _ in range(10):
                client.transcribe(short)
        assert server.process is not None
        memory = functools.partial(memory_megabytes, [server.process.pid])
        before, load, waits = memory(), Load(), []
        with highest(memory) as seen:
            started = time.perf_counter()
            done = [load.add(server.url, long, 0.0) for _ in range(options.long_clients)]
            if with_short:
                waits = load.add(server.url, short, PAUSE)
            time.sleep(options.round_seconds)
            load.stop()
            seconds = time.perf_counter() - started
        time.sleep(QUIET)
        audio = sum(map(len, done)) * options.long_seconds + len(waits) * options.short_seconds
        return {
            "short_ms": [round(1000 * wait, 1) for wait in waits],
            "long_seconds_median": statistics.median(taken for clients in done for taken in clients),
            "audio_seconds_per_second": audio / seconds,
            "memory_mb": {"before": before, "most": max(seen), "after": memory()},
        }


def summary(rounds: list[dict[str, Any]], alone: list[dict[str, Any]]) -> dict[str, Any]:
    waits = np.array([wait for one in rounds for wait in one["short_ms"]])
    p50, p95, p99 = np.percentile(waits, [50, 95, 99]).round(1).tolist()
    found = {
        "short_ms": {"p50": p50, "p95": p95, "p99": p99, "requests": len(waits)},
        "long_seconds_median": statistics.median(one["long_seconds_median"] for one in rounds),
        "rtfx": statistics.median(one["audio_seconds_per_second"] for one in rounds),
        "rtfx_long_alone": statistics.median(one["audio_seconds_per_second"] for one in alone),
    }
    memory = {
        key: round(statistics.median(one["memory_mb"][key] for one in rounds))
        for key in ("before", "most", "after")
    }
    return found | {"memory_mb": memory, "rounds": {"mixed": rounds, "long_alone": alone}}


def show(result: dict[str, Any]) -> None:
    print(f"\n{result['model']}: {result['clients']}, on {result['machine']}")
    print(f"{'':<14}{'short clip, ms':^24}{'RTFx':>7}{'long alone':>12}{'memory, MB':^26}")
    print(f"{'':<14}{'p50':>8}{'p95':>8}{'p99':>8}{'':>19}{'before':>8}{'most':>8}{'after':>8}")
    for name in (EXPORTED, ONE_QUEUE):
        found = result[name]
        waits = "".join(f"{found['short_ms'][key]:>8.0f}" for key in ("p50", "p95", "p99"))
        memory = "".join(f"{found['memory_mb'][key]:>8}" for key in ("before", "most", "after"))
        print(f"{name:<14}{waits}{found['rtfx']:>7.0f}{found['rtfx_long_alone']:>12.0f}{memory}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repository", type=Path, help="a filled repository (default: random weights of --size)")
    add("--size", default="s", help="xs, s, m or l (default s)")
    add("--long-clients", type=int, default=8)
    add("--long-seconds", type=float, default=60.0)
    add("--short-seconds", type=float, default=2.5)
    add("--rounds", type=int, default=3)
    add("--round-seconds", type=float, default=20.0)
    add("--cores", type=int, default=2, help="cores to share (default 2)")
    add("--server", type=Path, default=ROOT / ".server", help="the server installation")
    add("--out", type=Path, default=ROOT / "results" / "mixed_lengths.json")
    options = parser.parse_args()
    options.model = None
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        repository = options.repository or exported(options, model_file(options, folder), folder)
        contract = Contract.load(repository / tensors.ENCODER / "1")
        places = {EXPORTED: repository, ONE_QUEUE: one_queue(repository, folder)}
        rounds: dict[str, list] = {arrangement: [] for arrangement in places}
        alone: dict[str, list] = {arrangement: [] for arrangement in places}
        for _ in range(options.rounds):
            for arrangement, place in places.items():
                rounds[arrangement].append(measure(options, place))
                alone[arrangement].append(measure(options, place, with_short=False))
    result = {
        "model": contract.model,
        "clients": f"{options.long_clients} with clips of {options.long_seconds:g} s, "
        f"one with {options.short_seconds:g} s every {PAUSE:g} s",
        **{arrangement: summary(rounds[arrangement], alone[arrangement]) for arrangement in places},
        "machine": machine(),
        "versions": {name: version(name) for name in ("onnxruntime", "tritonclient")} | contract.versions,
        "command": " ".join(["python", "bench/mixed_lengths.py", *sys.argv[1:]]),
    }
    show(result)
    with atomic_write(options.out) as stream:
        json.dump(result, stream, indent=1)
        stream.write("\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    run_main(main)
