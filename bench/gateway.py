"""Measure what the gateway costs: requests a second and latency over HTTP, beside gRPC in the same run.

    python bench/gateway.py --repository triton --manifest data/demo/eval_clean.jsonl

Both are asked for the same files. A round of each in turn, --rounds times: --clients clients at once for the
throughput, then one alone for the latency; at the end one over HTTP beside a job of two hours. Over gRPC a
client sends samples that it has read and resampled before (`AsrClient`); over HTTP it sends the file as it
is, so the ratio holds uploading and decoding as well. Texts must be the same.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from threading import local

import httpx
import numpy as np
import soundfile

from ko_asr.audio.read import read_audio
from ko_asr.client.offline import AsrClient
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.serving.server import DYING_WITH_PARENT, TritonServer, free_ports

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".gateway/bin/python"
Ask = Callable[[int], str]  # the text of the file of this number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repository", type=Path, default=ROOT / "triton", help="a model repository (default triton/)")
    add("--manifest", type=Path, required=True, help="utterances")
    add("--utterances", type=int, default=100, help="that are asked for (default 100)")
    add("--clients", type=int, default=16, help="at once (default 16)")
    add("--requests", type=int, default=400, help="of a round of throughput (default 400)")
    add("--rounds", type=int, default=5, help="of each (default 5)")
    add("--out", type=Path, default=ROOT / "bench/results/gateway.json", help="the figures, as JSON")
    return parser.parse_args()


def over_grpc(url: str, audio: list[np.ndarray]) -> Ask:
    """Ask with a connection a thread."""
    own = local()

    def ask(number: int) -> str:
        if not hasattr(own, "client"):
            own.client = AsrClient(url)
        return own.client.transcribe(audio[number]).text

    return ask


def over_http(url: str, files: list[bytes]) -> Ask:
    """Ask with a connection a thread."""
    own = local()

    def ask(number: int) -> str:
        if not hasattr(own, "client"):
            own.client = httpx.Client(timeout=60)
        form = {"data": {"model": "asr"}, "files": {"file": files[number]}}
        return own.client.post(f"{url}/v1/audio/transcriptions", **form).raise_for_status().json()["text"]

    return ask


def throughput(ask: Ask, count: int, requests: int, clients: int) -> float:
    """Requests a second of ``clients`` threads that ask without a pause."""
    with ThreadPoolExecutor(clients) as pool:
        started = time.perf_counter()
        list(pool.map(ask, islice(cycle(range(count)), requests)))
        return requests / (time.perf_counter() - started)


def latencies(ask: Ask, count: int) -> list[float]:
    """Milliseconds of each request of one client."""
    found = []
    for number in range(count):
        started = time.perf_counter()
        ask(number)
        found.append(1000 * (time.perf_counter() - started))
    return found


def beside_a_job(url: str, audio: list[np.ndarray], ask: Ask, hours: float, folder: Path) -> dict:
    """Latencies of one client while a recording of so many hours is a job, and how far that was."""
    recording = folder / "recording.flac"
    whole = np.concatenate(audio)
    with soundfile.SoundFile(recording, "w", SAMPLE_RATE, 1, format="FLAC") as out:
        for _ in range(int(hours * 3600 * SAMPLE_RATE / len(whole))):
            out.write(whole)
    with recording.open("rb") as file:
        answer = httpx.post(f"{url}/v1/jobs", files={"file": file}, timeout=120).raise_for_status().json()
    while (state := httpx.get(f"{url}/v1/jobs/{answer['id']}").json())["progress"] < 1:
        if state["status"] == "failed":
            raise UserError(f"the job failed: {state['error']['message']}")
        time.sleep(0.2)
    times = latencies(ask, len(audio))
    after = httpx.get(f"{url}/v1/jobs/{answer['id']}").json()
    httpx.delete(f"{url}/v1/jobs/{answer['id']}")
    return {
        "hours": hours,
        "percent_done": [state["progress"], after["progress"]],
        "latency_ms": {
            "p50": round(statistics.median(times), 1),
            "p95": round(float(np.percentile(times, 95)), 1),
        },
    }


def start_gateway(options: Sequence[str], log: Path) -> tuple[subprocess.Popen, str]:
    """Start a gateway with ``options``; its process and address."""
    if not PYTHON.exists():
        raise UserError("no .gateway: make it with make setup-gateway")
    port = free_ports(1)[0]
    command = [*DYING_WITH_PARENT, str(PYTHON), "-m", "ko_asr.gateway", *options]
    with log.open("w", encoding="utf-8") as stream:
        own = ["--port", str(port), "--data", str(log.parent / f"data-{port}")]
        process = subprocess.Popen([*command, *own], stdout=stream, stderr=stream)
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            httpx.get(f"{url}/health/ready", timeout=10).raise_for_status()
            return process, url
        except httpx.HTTPError:
            time.sleep(0.1)
    raise UserError(f"the gateway did not start: {log.read_text(encoding='utf-8')[-500:]}")


def measure(asks: dict[str, Ask], count: int, args: argparse.Namespace) -> dict:
    """Run the rounds; figures by the name of each way."""
    rates: dict[str, list[float]] = {name: [] for name in asks}
    times: dict[str, list[float]] = {name: [] for name in asks}
    for number in range(args.rounds):
        for name, ask in asks.items():
            rates[name].append(throughput(ask, count, args.requests, args.clients))
            times[name] += latencies(ask, count)
        told = ", ".join(f"{name} {rates[name][-1]:.1f}/s" for name in asks)
        print(f"round {number + 1}: {told}", flush=True)
    ratios = [http / grpc for http, grpc in zip(rates["http"], rates["grpc"], strict=True)]
    p50 = {name: statistics.median(values) for name, values in times.items()}
    return {
        "requests_per_second": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "ratio_http_to_grpc": round(statistics.median(ratios), 3),
        "latency_ms_p50": {name: round(value, 2) for name, value in p50.items()},
        "added_ms_p50": round(p50["http"] - p50["grpc"], 2),
    }


def main() -> None:
    args = parse()
    paths = [entry["audio_filepath"] for entry in list(read_manifest(args.manifest))[: args.utterances]]
    audio, files = [read_audio(path) for path in paths], [Path(path).read_bytes() for path in paths]
    with tempfile.TemporaryDirectory() as folder, TritonServer(args.repository, ROOT / ".server") as server:
        process, url = start_gateway(["--triton", server.url], Path(folder) / "log")
        try:
            asks = {"grpc": over_grpc(server.url, audio), "http": over_http(url, files)}
            texts = {name: [ask(number) for number in range(len(paths))] for name, ask in asks.items()}
            figures = measure(asks, len(paths), args)
            figures["beside_a_job"] = beside_a_job(url, audio, asks["http"], 2.0, Path(folder))
        finally:
            process.terminate()
            process.wait()
    report = {
        "utterances": len(paths),
        "seconds_mean": round(sum(map(len, audio)) / len(audio) / SAMPLE_RATE, 2),
        "clients": args.clients,
        "same_texts": sum(map(str.__eq__, texts["grpc"], texts["http"])),
        **figures,
        **provenance(["fastapi", "uvicorn", "httpx", "tritonclient", "numpy"]),
    }
    with atomic_write(args.out) as stream:
        json.dump(report, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    print(json.dumps(figures, indent=1))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
