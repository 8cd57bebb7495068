"""Throughput of the served ensemble against its own encoder, bare, on the same cores.

    python bench/offline_ensemble.py                       # size s, random weights
    python bench/offline_ensemble.py --model experiments/demo/demo.nemo --clients 16

The bare encoder is the exported ONNX graph in two processes with one ONNX Runtime thread each, fed ready
features: the fastest arrangement of two cores that was measured. The ensemble gets audio over gRPC from
concurrent clients on those same cores, and does log-mel, batching, decoding and all transport besides.
Rounds alternate, so that another load on the machine falls on both; on a busy machine the ratio by CPU time
(client and transport counted) is the one to trust, because more processes get more of a shared core.
"""

import argparse
import functools
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr import contract as names
from ko_asr.client import AsrClient
from ko_asr.contract import Contract
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_RATE = 16_000
CLOCK = os.sysconf("SC_CLK_TCK")


def bare_worker(graph: str, mels: int, frames: int, batch: int, commands: Any, results: Any) -> None:
    """One process, one session, one thread: run for as long as told, report the clips done."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    features = np.random.default_rng(0).standard_normal((batch, mels, frames)).astype(np.float32)
    feed = {names.FEATURES: features, names.LENGTH: np.full((batch, 1), frames, np.int64)}
    outputs = [names.TOKEN_IDS, names.TOKEN_LOG_PROBS, names.ENCODED_LENGTH]
    session.run(outputs, feed)
    results.put(0)
    while seconds := commands.get():
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            session.run(outputs, feed)
            done += batch
        results.put(done / (time.perf_counter() - started))


class BareEncoder:
    """Two one-thread sessions in processes of their own, waiting between rounds."""

    def __init__(self, graph: Path, mels: int, frames: int, batch: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.results = context.Queue()
        self.commands = [context.Queue() for _ in range(2)]
        self.processes: list[int] = []
        for commands in self.commands:
            arguments = (str(graph), mels, frames, batch, commands, self.results)
            worker = context.Process(target=bare_worker, args=arguments, daemon=True)
            worker.start()
            self.processes.append(worker.pid or 0)
        for _ in self.commands:
            self.results.get()

    def measure(self, seconds: float) -> float:
        """Clips a second of both together."""
        for commands in self.commands:
            commands.put(seconds)
        return sum(self.results.get() for _ in self.commands)

    def close(self) -> None:
        for commands in self.commands:
            commands.put(0)


def ensemble_round(url: str, audio: np.ndarray, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Closed loop of ``clients``: clips a second, and the latencies in seconds."""
    latencies: list[float] = []
    failures: list[BaseException] = []
    deadline = time.perf_counter() + seconds

    def loop() -> None:
        try:
            with AsrClient(url) as client:
                while (started := time.perf_counter()) < deadline:
                    client.transcribe(audio)
                    latencies.append(time.perf_counter() - started)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=loop) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return len(latencies) / (time.perf_counter() - started), latencies


def cpu_seconds(processes: list[int]) -> float:
    """User and system seconds so far of ``processes`` and their children."""
    total = 0
    for process in processes:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            total += cpu_seconds([int(child) for child in task.read_text(encoding="utf-8").split()]) * CLOCK
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / CLOCK


def exported(options: argparse.Namespace, folder: Path) -> Path:
    """A filled repository for the model asked for."""
    model = options.model
    if model is None:
        model = folder / f"random_{options.size}.nemo"
        run([ROOT / "bench" / "random_model.py", "--size", options.size, "--out", model])
    repository = folder / "repository"
    run([ROOT / "export" / "to_triton.py", "--model", model, "--repository", repository])
    return repository


def run(command: list) -> None:
    result = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, check=False)
    if result.returncode:
        raise UserError(f"{Path(command[0]).name} failed: {result.stderr.strip().splitlines()[-1]}")


def machine() -> dict[str, Any]:
    model = platform.processor() or "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {"cpu": model, "cores_used": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def measure(options: argparse.Namespace, repository: Path) -> dict[str, Any]:
    contract = Contract.load(repository / names.ENCODER / "1")
    samples = int(options.seconds * SAMPLE_RATE)
    graph = repository / names.ENCODER / "1" / "model.onnx"
    audio = (0.1 * np.random.default_rng(0).standard_normal(samples)).astype(np.float32)
    frames = samples // contract.hop
    bare = {batch: BareEncoder(graph, contract.mels, frames, batch) for batch in (1, 4)}
    rounds: dict[str, list[float]] = {"ensemble": [], **{f"bare, batch {batch}": [] for batch in bare}}
    costs: dict[str, list[float]] = {name: [] for name in rounds}
    latencies: list[float] = []

    def timed(name: str, processes: list[int], work: Callable[[], float]) -> None:
        before, started = cpu_seconds(processes), time.perf_counter()
        rounds[name].append(work())
        clips = rounds[name][-1] * (time.perf_counter() - started)
        costs[name].append(1000 * (cpu_seconds(processes) - before) / clips)

    def ensemble() -> float:
        rate, taken = ensemble_round(server.url, audio, options.clients, options.round_seconds)
        latencies.extend(taken)
        return rate

    try:
        with TritonServer(repository, options.server) as server:
            ensemble_round(server.url, audio, options.clients, 1.0)
            for _ in range(options.rounds):
                for batch, encoder in bare.items():
                    work = functools.partial(encoder.measure, options.round_seconds)
                    timed(f"bare, batch {batch}", encoder.processes, work)
                timed("ensemble", [os.getpid()], ensemble)  # the server is a child of this process
    finally:
        for encoder in bare.values():
            encoder.close()
    return summary(options, contract, rounds, costs, latencies)


def summary(
    options: argparse.Namespace,
    contract: Contract,
    rounds: dict[str, list[float]],
    costs: dict[str, list[float]],
    latencies: list[float],
) -> dict[str, Any]:
    clips = {name: statistics.median(values) for name, values in rounds.items()}
    cpu = {name: statistics.median(values) for name, values in costs.items()}
    best = max((name for name in clips if name != "ensemble"), key=lambda name: clips[name])
    percentiles = np.percentile(1000 * np.array(latencies), [50, 95, 99])
    return {
        "model": contract.model,
        "weights": "random" if options.model is None else "trained",
        "clip_seconds": options.seconds,
        "clients": options.clients,
        "clips_per_second": clips,
        "rtfx": {name: value * options.seconds for name, value in clips.items()},
        "ratio": clips["ensemble"] / clips[best],
        "cpu_ms_per_clip": cpu,
        "cpu_ratio": min(value for name, value in cpu.items() if name != "ensemble") / cpu["ensemble"],
        "latency_ms": dict(zip(("p50", "p95", "p99"), percentiles.round(1).tolist(), strict=True)),
        "rounds": rounds,
        "machine": machine(),
        "versions": {name: version(name) for name in ("onnxruntime", "tritonclient")} | contract.versions,
        "command": " ".join(["python", "bench/offline_ensemble.py", *sys.argv[1:]]),
    }


def show(result: dict[str, Any]) -> None:
    what = f"{result['model']}, {result['weights']} weights, clips of {result['clip_seconds']:g} s"
    print(f"\n{what}, {result['machine']}")
    print(f"{'':<34}{'clips/s':>9}{'RTFx':>8}{'CPU ms/clip':>13}")
    for name, value in result["clips_per_second"].items():
        label = (
            f"ensemble, {result['clients']} clients" if name == "ensemble" else f"encoder {name}, 2 processes"
        )
        print(f"{label:<34}{value:>9.1f}{result['rtfx'][name]:>8.0f}{result['cpu_ms_per_clip'][name]:>13.1f}")
    print("latency ms: " + ", ".join(f"{key} {value:g}" for key, value in result["latency_ms"].items()))
    print(f"ensemble / best bare encoder = {result['ratio']:.2f} (by CPU time {result['cpu_ratio']:.2f})")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="a .nemo (default: random weights of --size)")
    add("--size", default="s", help="xs, s, m or l (default s)")
    add("--repository", type=Path, help="an already filled repository instead of a model")
    add("--clients", type=int, default=8, help="concurrent requests (default 8)")
    add("--seconds", type=float, default=5.0, help="length of a clip (default 5)")
    add("--rounds", type=int, default=5)
    add("--round-seconds", type=float, default=4.0)
    add("--cores", type=int, default=2, help="cores to share (default 2)")
    add("--at-least", type=float, default=0.0, help="exit 1 when the ratio is below this")
    add("--server", type=Path, default=ROOT / ".server", help="the server installation")
    add("--out", type=Path, default=ROOT / "results" / "offline_ensemble.json")
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as folder:
        repository = options.repository or exported(options, Path(folder))
        result = measure(options, repository)
    show(result)
    with atomic_write(options.out) as stream:
        json.dump(result, stream, indent=1)
        stream.write("\n")
    print(f"wrote {options.out}")
    return 1 if result["ratio"] < options.at_least else 0


if __name__ == "__main__":
    run_main(main)
