"""Find the streams, or requests a second, that a server carries: an open-loop load ramps to the limit.

    python bench/load.py --repository triton --manifest data/demo/eval_clean.jsonl
    python bench/load.py --url gpu-box:8001 --manifest m.jsonl --start 64 --processes 8
    python bench/load.py --mode offline --repository triton --manifest data/demo/eval_clean.jsonl

Streaming: N streams speak utterances of the manifest without end. A chunk is due when its last sample would
have been spoken, and its response time counts from then, so a slow server cannot slow the load down and look
good. Offline: requests arrive at random (Poisson) at a rate of N a second, and their time counts from the
arrival. The ramp multiplies N by --factor until the p99 response exceeds the chunk (offline: --limit-ms), or
requests fail. First partial and final are `ko_asr.recognition.latency`'s; CER counts spaces. The generator is
--processes processes of its own; where it was itself late by more than a fiftieth of the limit, the level
says so. Of a server started here, the seconds until it answers an inference are measured too.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.grpc import InferenceServerException

from ko_asr.audio.read import read_audio
from ko_asr.client.connection import ServerError, StreamsFull
from ko_asr.client.offline import AsrClient
from ko_asr.client.protocol import ChunkSizes, Request, StreamProtocol
from ko_asr.client.streaming import (
    Connection,
    StreamingClient,
    answer_outputs,
    close_request,
    request_arguments,
)
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.evaluation.metrics import PROFILES, headline_counts
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.recognition.latency import LatencyMeter
from ko_asr.runtime.results import Result
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parent
RATE = 16_000
KINDS = ("response", "first_partial", "final", "generator_late")
TIMEOUT, REST = 30.0, 0.2  # seconds: for an answer; after a failure
Utterance = tuple[str, np.ndarray]


@dataclass
class Measured:
    """Observations of a generator; times in seconds."""

    response: list[float] = field(default_factory=list)
    first_partial: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    generator_late: list[float] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)  # reference, hypothesis
    answered_seconds: float = 0.0  # of audio
    errors: Counter = field(default_factory=Counter)
    rejected: int = 0

    def add(self, other: "Measured") -> None:
        """Take over what another generator saw."""
        for kind in (*KINDS, "texts"):
            getattr(self, kind).extend(getattr(other, kind))
        self.answered_seconds += other.answered_seconds
        self.errors += other.errors
        self.rejected += other.rejected


@dataclass(frozen=True)
class Level:
    """Share of one step of the ramp that one generator process gets."""

    url: str
    model: str
    sizes: ChunkSizes | None  # None: offline
    load: float  # streams, or requests a second
    seconds: float
    seed: int


class StreamGenerator:
    """Generator of streams that speak utterances without end."""

    def __init__(self, level: Level, client: Any, utterances: Sequence[Utterance]) -> None:
        assert level.sizes is not None
        self.level, self.sizes, self.client, self.utterances = level, level.sizes, client, utterances
        self.connection = Connection(level.url, level.model)
        self.seen = Measured()
        self.over = time.perf_counter() + level.seconds

    async def run(self) -> Measured:
        """Run all streams until the time is over."""
        await asyncio.gather(*(self._stream(number) for number in range(int(self.level.load))))
        return self.seen

    async def _stream(self, number: int) -> None:
        rng = random.Random(f"{self.level.seed} {number}")
        await asyncio.sleep(rng.uniform(0.0, self.sizes.chunk_seconds))  # streams do not speak in step
        while time.perf_counter() < self.over:
            text, audio = rng.choice(self.utterances)
            protocol = StreamProtocol(self.sizes)
            try:
                await self._speak(protocol, text, audio)
            except InferenceServerException as error:
                await self._failed(self.connection.server_error(error), protocol)

    async def _failed(self, error: ServerError, protocol: StreamProtocol) -> None:
        if isinstance(error, StreamsFull):
            self.seen.rejected += 1
        else:
            self.seen.errors[error.code] += 1
        with contextlib.suppress(InferenceServerException):
            await self._infer(close_request(protocol.sequence_id))
        await asyncio.sleep(REST)

    async def _infer(self, request: Request) -> Any:
        return await self.client.infer(**request_arguments(self.level.model, request, None, RATE, TIMEOUT))

    async def _speak(self, protocol: StreamProtocol, text: str, audio: np.ndarray) -> None:
        """Speak one utterance. Chunks that are due when the time is over are not measured."""
        meter, begun, free, finals = LatencyMeter(), time.perf_counter(), 0.0, []
        protocol.feed(audio)
        protocol.end()
        sent = 0
        while (request := protocol.request()) is not None:
            due = begun + request.position / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            now = time.perf_counter()
            late = now - max(due, free)
            results = protocol.answered(request, answer_outputs(await self._infer(request)))
            free = time.perf_counter()
            meter.see(results, free - begun)
            finals += [result for result in results if result.is_final]
            if due < self.over:
                self.seen.response.append(free - due)
                self.seen.generator_late.append(late)
                self.seen.answered_seconds += (request.position - sent) / RATE
            sent = request.position
        self._keep(meter, text, finals)

    def _keep(self, meter: LatencyMeter, text: str, finals: list[Result]) -> None:
        self.seen.first_partial += meter.first_partial
        self.seen.final += meter.final
        self.seen.texts.append((text, " ".join(result.text for result in finals if result.text)))


async def generate_streams(level: Level, utterances: Sequence[Utterance]) -> Measured:
    """Run one process's streams; return its observations."""
    client = Connection(level.url, level.model).connect(triton)
    try:
        return await StreamGenerator(level, client, utterances).run()
    finally:
        await client.close()


async def generate_requests(level: Level, utterances: Sequence[Utterance]) -> Measured:
    """Send whole utterances at random moments, ``level.load`` of them a second."""
    seen, rng, clients = Measured(), random.Random(level.seed), []
    loop = asyncio.get_running_loop()
    pool = ThreadPoolExecutor(256)
    begun = time.perf_counter()

    def connect() -> AsrClient:
        try:
            return clients.pop()
        except IndexError:
            return AsrClient(level.url, TIMEOUT)

    def request(text: str, audio: np.ndarray, due: float) -> None:
        seen.generator_late.append(time.perf_counter() - due)
        client = connect()
        try:
            hypothesis = client.transcribe(audio).text
        except ServerError as error:
            seen.errors[error.code] += 1
            return
        finally:
            clients.append(client)
        seen.response.append(time.perf_counter() - due)
        seen.answered_seconds += len(audio) / RATE
        seen.texts.append((text, hypothesis))

    due, tasks = begun, []
    while (due := due + rng.expovariate(level.load)) < begun + level.seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(loop.run_in_executor(pool, request, *rng.choice(utterances), due))
    await asyncio.gather(*tasks)
    for client in clients:
        client.close()
    return seen


def generate(level: Level, files: Sequence[tuple[str, str]]) -> Measured:
    """Do the work of one generator process."""
    utterances = [(text, read_audio(path)) for text, path in files]
    work: Coroutine[Any, Any, Measured]
    work = (generate_streams if level.sizes else generate_requests)(level, utterances)
    return asyncio.run(work)


def percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Compute p50, p95 and p99 in ms."""
    if not values:
        return None
    return {f"p{q}": round(1000 * float(np.percentile(values, q)), 1) for q in (50, 95, 99)}


def row_of(load: float, seconds: float, seen: Measured, limit: float) -> dict[str, Any]:
    """Compute the figures of one level; ``limit`` in seconds."""
    references, hypotheses = zip(*seen.texts, strict=True) if seen.texts else ((), ())
    cer = headline_counts(references, hypotheses, PROFILES["plain"]).rate if references else None
    row: dict[str, Any] = {"load": load, "responses": len(seen.response)}
    row |= {f"{kind}_ms": percentiles(getattr(seen, kind)) for kind in KINDS}
    late = row["generator_late_ms"]
    response = row["response_ms"]
    return row | {
        "rtfx": round(seen.answered_seconds / seconds, 2),
        "errors": dict(seen.errors),
        "rejected": seen.rejected,
        "cer": None if cer is None else round(cer, 4),
        "utterances": len(references),
        "generator_was_late": bool(late and late["p99"] > 1000 * limit / 50),
        "carried": bool(response and response["p99"] <= 1000 * limit)
        and not seen.errors
        and not seen.rejected,
    }


def shares(load: float, processes: int, streams: bool) -> list[float]:
    """Divide ``load`` among generator processes."""
    if not streams:
        return [load / processes] * processes
    parts = [int(load) // processes + (index < int(load) % processes) for index in range(processes)]
    return [part for part in parts if part]


def ramp(args: argparse.Namespace, url: str, files: list[tuple[str, str]]) -> dict[str, Any]:
    """Raise the level until one is not carried, or --levels times."""
    sizes, limit, model = None, args.limit_ms / 1000, "asr"
    if args.mode == "streaming":
        model = args.model
        with StreamingClient(url, model=model) as client:
            sizes = client.sizes()
        limit = sizes.chunk_seconds
    rows: list[dict[str, Any]] = []
    load = args.start
    with ProcessPoolExecutor(args.processes, multiprocessing.get_context("spawn")) as pool:
        list(
            pool.map(
                generate, [Level(url, model, sizes, 1, 1.0, 0)] * args.processes, [files] * args.processes
            )
        )
        while len(rows) < args.levels and (not rows or rows[-1]["carried"]):
            parts = shares(load, args.processes, sizes is not None)
            levels = [Level(url, model, sizes, part, args.seconds, seed) for seed, part in enumerate(parts)]
            seen = Measured()
            for one in pool.map(generate, levels, [files] * len(levels)):
                seen.add(one)
            rows.append(row_of(load, args.seconds, seen, limit))
            show(rows[-1])
            load = max(load + 1, int(load * args.factor))
    best = max((row["load"] for row in rows if row["carried"]), default=0)
    return {"mode": args.mode, "model": model, "limit_ms": 1000 * limit, "carried": best, "levels": rows}


def show(row: dict[str, Any]) -> None:
    """Print a line of the table."""

    def triple(kind: str) -> str:
        figures = row[f"{kind}_ms"]
        return "/".join(f"{value:.0f}" for value in figures.values()) if figures else "-"

    cer = "-" if row["cer"] is None else f"{100 * row['cer']:.2f} %"
    notes = [f"{count} {code}" for code, count in row["errors"].items()]
    notes += [f"{row['rejected']} rejected"] * bool(row["rejected"])
    notes += ["GENERATOR LATE"] * row["generator_was_late"]
    print(
        f"{row['load']:>6g} {row['rtfx']:>7.1f} {triple('response'):>15} {triple('first_partial'):>15} "
        f"{triple('final'):>15} {cer:>8}  {', '.join(notes)}",
        flush=True,
    )


def plot(result: dict[str, Any], path: Path) -> None:
    """Plot response percentiles against the load, with the limit."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [row for row in result["levels"] if row["response_ms"]]
    figure, axes = plt.subplots(figsize=(7, 4))
    for name in ("p50", "p95", "p99"):
        axes.plot(
            [row["load"] for row in rows], [row["response_ms"][name] for row in rows], marker="o", label=name
        )
    axes.axhline(result["limit_ms"], linestyle="--", color="grey", label="limit")
    axes.set(
        xlabel="streams" if result["mode"] == "streaming" else "requests a second",
        ylabel="response, ms",
        yscale="log",
        title=f"{result['model']}: response under open-loop load",
    )
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--mode", choices=("streaming", "offline"), default="streaming")
    target = parser.add_mutually_exclusive_group()
    target.add_argument("--url", help="host:port of a running server")
    target.add_argument(
        "--repository", type=Path, default=Path("triton"), help="to serve here (default triton)"
    )
    add("--model", default="asr_streaming", help="of the streams (default asr_streaming)")
    add("--manifest", type=Path, required=True, help="whose utterances are spoken")
    add("--utterances", type=int, default=50, help="of the manifest, at most (default 50)")
    add("--start", type=int, default=1, help="streams, or requests a second, at first (default 1)")
    add("--factor", type=float, default=1.5, help="from a level to the next (default 1.5)")
    add("--levels", type=int, default=16, help="at most (default 16)")
    add("--seconds", type=float, default=10.0, help="of a level (default 10)")
    add("--limit-ms", type=float, default=1000.0, help="offline: p99 that is too much (default 1000)")
    add("--processes", type=int, default=1, help="of the generator (default 1)")
    add("--server", type=Path, default=ROOT.parent / ".server", help="the server installation")
    add("--out", type=Path, help="JSON; the plot lies beside it (default bench/results/load_MODE.json)")
    args = parser.parse_args()
    if min(args.start, args.levels, args.seconds, args.limit_ms, args.processes, args.utterances) <= 0:
        parser.error("numbers must be positive")
    if args.factor <= 1:
        parser.error("--factor must be above 1")
    return args


def main() -> int:
    args = parse()
    out = args.out or ROOT / "results" / f"load_{args.mode}.json"
    entries = list(read_manifest(args.manifest))[: args.utterances]
    if not entries:
        raise UserError(f"{args.manifest} holds no utterance: prepare the corpus again")
    files = [(entry["text"], entry["audio_filepath"]) for entry in entries]
    what = "streams" if args.mode == "streaming" else "req/s"
    print(
        f"{what:>6} {'RTFx':>7} {'response ms':>15} {'1st partial':>15} {'final':>15} {'CER':>8}"
        "  (p50/p95/p99)"
    )
    with contextlib.ExitStack() as stack:
        started = time.perf_counter()
        url = args.url or stack.enter_context(TritonServer(args.repository, args.server)).url
        ready = None if args.url else round(time.perf_counter() - started, 2)
        result = ramp(args, url, files)
    result["ready_seconds"] = ready
    result |= {"manifest": args.manifest.name, "seconds": args.seconds, "processes": args.processes}
    result |= provenance(["tritonclient", "grpcio", "numpy"])
    with atomic_write(out) as stream:
        json.dump(result, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
    plot(result, out.with_suffix(".png"))
    if ready is not None:
        print(f"from start to the first answer: {ready:.1f} s")
    print(f"carried: {result['carried']} {what} with p99 within {result['limit_ms']:.0f} ms")
    print(f"wrote {out} and {out.with_suffix('.png').name}")
    return 0


if __name__ == "__main__":
    run_main(main)
