"""Measure the served ensemble against its own encoder, bare, and against its peers, on the same cores.

    python bench/offline_ensemble.py                       # size s, random weights
    python bench/offline_ensemble.py --clients 16 --peers --sherpa .sherpa/bin/python      # --size l
    python bench/offline_ensemble.py --model experiments/demo/demo.nemo --clients 16

The bare encoder is the exported ONNX graph in two processes with one ONNX Runtime thread each, fed ready
features: the fastest arrangement of two cores that was measured. The ensemble gets audio over gRPC from
concurrent clients on those same cores, and does log-mel, batching, decoding and all transport besides.
Rounds alternate, so that another load on the machine falls on both; on a busy machine the ratio by CPU time
(client and transport counted) is the one to trust, because more processes get more of a shared core.

--peers adds, in the same rounds: NeMo's own ``export()`` bare in the same two processes, likewise the int8
graph of --precision int8 for the CPU, NeMo's ``transcribe()`` with two threads, and, where --sherpa
names a Python that has sherpa-onnx (``.sherpa/bin/pip install sherpa-onnx==2.0.1``),
its recogniser in two one-thread processes on NeMo's export. Texts are compared with NeMo's, clip by clip.
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
from processes import cpu_seconds

from ko_asr.allocator import keep_freed_memory
from ko_asr.client.offline import AsrClient
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
SAMPLE_RATE = 16_000
BATCHES = (1, 4)  # clips a call of every engine that takes batches; its better one counts


def bare_worker(graph: str, mels: int, frames: int, batch: int, commands: Any, results: Any) -> None:
    """Run one session on one thread in one process for the asked time; report the clips done."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    features = np.random.default_rng(0).standard_normal((batch, mels, frames)).astype(np.float32)
    signal, length = session.get_inputs()  # NeMo's export names them otherwise, and its length is [batch]
    feed = {signal.name: features, length.name: np.full((batch, 1)[: len(length.shape)], frames, np.int64)}
    small = {tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH}
    outputs = [o.name for o in session.get_outputs() if o.name in small] or None
    session.run(outputs, feed)
    results.put(0)
    while seconds := commands.get():
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < seconds:
            session.run(outputs, feed)
            done += batch
        results.put(done / (time.perf_counter() - started))


class BareEncoder:
    """Pair of one-thread sessions in processes of their own, waiting between rounds."""

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
        """Measure the clips a second of both together."""
        for commands in self.commands:
            commands.put(seconds)
        return sum(self.results.get() for _ in self.commands)

    def close(self) -> None:
        for commands in self.commands:
            commands.put(0)


def ensemble_round(url: str, audio: np.ndarray, clients: int, seconds: float) -> tuple[float, list[float]]:
    """Run a closed loop of ``clients``; return clips a second, and the latencies in seconds."""
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


class Peer:
    """Processes of `bench/peer_worker.py` that work at the same time, waiting between rounds."""

    def __init__(self, python: str, peer: str, model: Path, clips: Path, batch: int, count: int) -> None:
        worker = str(ROOT / "bench" / "peer_worker.py")
        command = [python, worker, peer, "--model", str(model), "--clips", str(clips), "--batch", str(batch)]
        pipe = subprocess.PIPE
        self.workers = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
            for _ in range(count)
        ]
        self.processes = [worker.pid for worker in self.workers]
        self._answers("ready")

    def _answers(self, what: Any) -> list[Any]:
        answers = []
        for worker in self.workers:
            assert worker.stdout is not None
            line = next(
                (text for text in worker.stdout if text.startswith(("[", '"')) or text[0].isdigit()), ""
            )
            if not line:
                raise UserError(f"the peer ended before it answered {what}: run {worker.args} by hand")
            answers.append(json.loads(line))
        return answers

    def ask(self, command: object) -> list[Any]:
        """Return the answer of each process to one command line."""
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write(f"{command}\n")
            worker.stdin.flush()
        return self._answers(command)

    def measure(self, seconds: float) -> float:
        """Measure the clips a second of all together."""
        return sum(self.ask(seconds))

    def close(self) -> None:
        for worker in self.workers:
            if worker.stdin is not None:
                worker.stdin.close()
            worker.wait(30)


def model_file(options: argparse.Namespace, folder: Path) -> Path:
    """Return the .nemo asked for, or one of random weights."""
    if options.model is not None:
        return options.model
    model = folder / f"random_{options.size}.nemo"
    run([ROOT / "bench" / "random_model.py", "--size", options.size, "--out", model])
    return model


def exported(options: argparse.Namespace, model: Path, folder: Path) -> Path:
    """Export ``model``; return the filled repository."""
    repository = folder / "repository"
    run([ROOT / "export" / "to_triton.py", "--model", model, "--repository", repository])
    return repository


def peer_graphs(model: Path, graph: Path, folder: Path) -> dict[str, Path]:
    """Make NeMo's own export with what sherpa-onnx reads from it, and our int8 graph for the CPU."""
    import onnx

    from ko_asr.export.quantize import quantize_for_cpu
    from ko_asr.models.nemo_file import restore_model

    restored, theirs, int8 = restore_model(model), folder / "nemo.onnx", folder / "int8.onnx"
    restored.export(str(theirs))
    pieces = [restored.tokenizer.tokenizer.id_to_piece(i) for i in range(len(restored.decoder.vocabulary))]
    proto = onnx.load(str(theirs))
    facts = {
        "vocab_size": len(pieces),
        "normalize_type": restored.cfg.preprocessor.normalize,
        "subsampling_factor": restored.encoder.subsampling_factor,
        "model_type": "EncDecCTCModelBPE",
        "is_giga_am": 0,
    }
    onnx.helper.set_model_props(proto, {key: str(value) for key, value in facts.items()})
    onnx.save(proto, str(theirs))
    lines = [f"{piece} {number}\n" for number, piece in enumerate([*pieces, "<blk>"])]
    theirs.with_name("tokens.txt").write_text("".join(lines), encoding="utf-8")
    quantize_for_cpu(graph, int8)
    return {"NeMo export": theirs, "int8": int8}


def start_peers(
    options: argparse.Namespace, contract: Contract, model: Path, graph: Path, folder: Path, clips: np.ndarray
) -> dict[str, Any]:
    """Start the peers, by name, each with ``measure``, ``processes`` and ``close``."""
    frames = clips.shape[1] // contract.hop
    graphs = peer_graphs(model, graph, folder)
    path = folder / "clips.npy"
    np.save(path, clips)
    peers: dict[str, Any] = {
        f"{name}, bare, batch {batch}": BareEncoder(found, contract.mels, frames, batch)
        for name, found in graphs.items()
        for batch in BATCHES
    }
    peers["NeMo transcribe"] = Peer(sys.executable, "nemo", model, path, 8, 1)
    if options.sherpa:
        for batch in BATCHES:
            name = f"sherpa-onnx, batch {batch}"
            peers[name] = Peer(str(options.sherpa), "sherpa", graphs["NeMo export"], path, batch, 2)
    return peers


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


def equal_texts(url: str, clips: np.ndarray, nemo: Peer) -> str:
    """Count the clips that the ensemble spells like NeMo's ``transcribe``."""
    with AsrClient(url) as client:
        ours = [client.transcribe(clip).text for clip in clips]
    theirs = nemo.ask("texts")[0]
    return f"{sum(a == b for a, b in zip(ours, theirs, strict=True))} of {len(ours)}"


def measure(options: argparse.Namespace, model: Path, repository: Path, folder: Path) -> dict[str, Any]:
    contract = Contract.load(repository / tensors.ENCODER / "1")
    samples = int(options.seconds * SAMPLE_RATE)
    graph = repository / tensors.ENCODER / "1" / file_names.GRAPH
    clips = (0.1 * np.random.default_rng(0).standard_normal((8, samples))).astype(np.float32)
    audio = clips[0]
    frames = samples // contract.hop
    bare: dict[str, Any] = {
        f"bare, batch {batch}": BareEncoder(graph, contract.mels, frames, batch) for batch in BATCHES
    }
    if options.peers:
        bare |= start_peers(options, contract, model, graph, folder, clips)
    texts = None
    rounds: dict[str, list[float]] = {"ensemble": [], **{name: [] for name in bare}}
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
                for name, peer in bare.items():
                    timed(name, peer.processes, functools.partial(peer.measure, options.round_seconds))
                timed("ensemble", [os.getpid()], ensemble)  # the server is a child of this process
            if options.peers:
                texts = equal_texts(server.url, clips, bare["NeMo transcribe"])
    finally:
        for encoder in bare.values():
            encoder.close()
    result = summary(options, contract, rounds, costs, latencies)
    return result if texts is None else result | {"texts_equal_to_nemo": texts}


def summary(
    options: argparse.Namespace,
    contract: Contract,
    rounds: dict[str, list[float]],
    costs: dict[str, list[float]],
    latencies: list[float],
) -> dict[str, Any]:
    clips = {name: statistics.median(values) for name, values in rounds.items()}
    cpu = {name: statistics.median(values) for name, values in costs.items()}
    # The better batch size of each engine: "int8, bare, batch 4" counts as "int8, bare" when it is faster.
    best: dict[str, float] = {}
    for name, rate in clips.items():
        engine = name.partition(", batch")[0]
        best[engine] = max(rate, best.get(engine, 0.0))
    ratios = {
        f"ensemble / {peer}": best["ensemble"] / best[peer]
        for peer in ("NeMo transcribe", "sherpa-onnx")
        if peer in best
    }
    if "int8, bare" in best:
        ratios["own encoder / NeMo export, bare"] = best["bare"] / best["NeMo export, bare"]
        ratios["int8, bare / own fp32"] = best["int8, bare"] / best["bare"]
    percentiles = np.percentile(1000 * np.array(latencies), [50, 95, 99])
    return {
        "model": contract.model,
        "weights": "random" if options.model is None else "trained",
        "clip_seconds": options.seconds,
        "clients": options.clients,
        "clips_per_second": clips,
        "rtfx": {name: value * options.seconds for name, value in clips.items()},
        "ratio": best["ensemble"] / best["bare"],
        "ratio_one_clip_a_call": best["ensemble"] / clips["bare, batch 1"],
        "cpu_ms_per_clip": cpu,
        "cpu_ratio": min(cpu[f"bare, batch {batch}"] for batch in BATCHES) / cpu["ensemble"],
        "peer_ratios": ratios,
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
        label = f"ensemble, {result['clients']} clients" if name == "ensemble" else name
        print(f"{label:<34}{value:>9.1f}{result['rtfx'][name]:>8.0f}{result['cpu_ms_per_clip'][name]:>13.1f}")
    print("latency ms: " + ", ".join(f"{key} {value:g}" for key, value in result["latency_ms"].items()))
    for name, ratio in result["peer_ratios"].items():
        print(f"{name} = {ratio:.2f}")
    if "texts_equal_to_nemo" in result:
        print(f"texts equal to NeMo's transcribe(): {result['texts_equal_to_nemo']}")
    print(f"ensemble / bare encoder, one clip a call = {result['ratio_one_clip_a_call']:.2f}")
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
    add("--peers", action="store_true", help="measure NeMo and sherpa-onnx in the same rounds")
    add("--sherpa", type=Path, help="a Python with sherpa-onnx, for --peers")
    add("--at-least", type=float, default=0.0, help="exit 1 when the ratio is below this")
    add("--server", type=Path, default=ROOT / ".server", help="the server installation")
    add("--out", type=Path, default=ROOT / "results" / "offline_ensemble.json")
    options = parser.parse_args()
    keep_freed_memory()  # as recipes/transcribe_client.py does
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    with tempfile.TemporaryDirectory() as folder:
        if options.peers and options.repository:
            raise UserError("--peers needs the .nemo itself: leave --repository out")
        model = options.repository or model_file(options, Path(folder))
        repository = options.repository or exported(options, model, Path(folder))
        result = measure(options, model, repository, Path(folder))
    show(result)
    with atomic_write(options.out) as stream:
        json.dump(result, stream, indent=1)
        stream.write("\n")
    print(f"wrote {options.out}")
    return 1 if result["ratio"] < options.at_least else 0


if __name__ == "__main__":
    run_main(main)
