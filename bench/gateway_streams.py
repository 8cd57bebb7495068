"""Find the live streams that the gateway carries, beside gRPC in the same run, and what silent sockets weigh.

    python bench/gateway_streams.py --repository triton --manifest data/demo/eval_clean.jsonl

N streams speak utterances of the manifest in packets of 100 ms, each sent when it has been spoken, and the
next utterance begins when the final has come. Measured is the final: its time since the last sample was due,
which a server that is behind lets grow without end. gRPC is the library's `AsyncStreamingClient`, the gateway
is asked over RTZR's WebSocket, in front of the same server and, as "embedded", with the graphs in its own
process. In turn, so many streams over each, until the p99 of one exceeds the chunk twice; the others go on.
The generator is a process of its own and shares the cores with everything else.
"""

import argparse
import asyncio
import json
import multiprocessing
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import websockets
from gateway import start_gateway
from processes import memory_megabytes

from ko_asr.audio.read import read_audio
from ko_asr.client.streaming import AsyncStreamingClient, StreamingClient
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
RATE, PACKET = 16_000, 1600
TRIES = 2  # of a level: one pause of the machine is not the gateway's
SAMPLES = "<i2"
Spoken = tuple[float, str]  # seconds from the last sample to the final, and the text


@dataclass(frozen=True)
class Level:
    """One measurement: ``streams`` over ``way`` for ``seconds``."""

    way: str
    url: str
    streams: int
    seconds: float


async def paced(audio: np.ndarray, send: Callable[[np.ndarray], Any]) -> float:
    """Send each packet when it has been spoken; the moment when the last one was due."""
    began = time.perf_counter()
    for at in range(0, len(audio), PACKET):
        due = began + min(at + PACKET, len(audio)) / RATE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        await send(audio[at : at + PACKET])
    return due


async def over_grpc(client: AsyncStreamingClient, audio: np.ndarray) -> Spoken:
    """One utterance through the library's client."""
    async with await client.open() as stream:
        due = await paced(audio, stream.send)
        await stream.finish()
        texts = [result.text async for result in stream if result.is_final and result.text]
    return time.perf_counter() - due, " ".join(texts)


async def over_gateway(url: str, audio: np.ndarray) -> Spoken:
    """One utterance through the gateway's WebSocket."""
    address = f"{url.replace('http', 'ws', 1)}/rtzr/v1/transcribe:streaming?sample_rate={RATE}"
    async with websockets.connect(f"{address}&encoding=LINEAR16", compression=None) as socket:

        async def listen() -> list[dict]:
            return [json.loads(message) async for message in socket]

        listening = asyncio.create_task(listen())
        due = await paced(audio, lambda packet: socket.send((packet * 32768).astype(SAMPLES).tobytes()))
        await socket.send("EOS")
        answers = await listening
    texts = [answer["alternatives"][0]["text"] for answer in answers if answer["final"]]
    return time.perf_counter() - due, " ".join(texts)


async def generate(level: Level, utterances: Sequence[np.ndarray]) -> list[tuple[int, Spoken]]:
    """Run all streams of a level; the utterances' numbers and what was measured of them."""
    over, found = time.perf_counter() + level.seconds, []
    async with AsyncStreamingClient(level.url if level.way == "grpc" else "127.0.0.1:1") as client:

        async def speak(number: int) -> None:
            rng = random.Random(number)
            await asyncio.sleep(rng.uniform(0.0, 1.0))  # they do not speak in step
            while time.perf_counter() < over:
                which = rng.randrange(len(utterances))
                audio = utterances[which]
                way = over_grpc(client, audio) if level.way == "grpc" else over_gateway(level.url, audio)
                found.append((which, await way))

        await asyncio.gather(*map(speak, range(level.streams)))
    return found


def run_level(level: Level, paths: Sequence[str]) -> list[tuple[int, Spoken]]:
    """Do the work of the generator's process."""
    whole = [np.round(read_audio(path) * 32767).astype(SAMPLES).astype(np.float32) / 32768 for path in paths]
    return asyncio.run(generate(level, whole))


def ramp(
    args: argparse.Namespace, urls: dict[str, str], paths: list[str], limit: float, most: int
) -> dict[str, Any]:
    """Raise the level of each way until it is not carried, or ``most`` streams are."""
    rows: list[dict[str, Any]] = []
    texts: dict[str, dict[int, str]] = {}
    carried, alive = dict.fromkeys(urls, 0), list(urls)
    streams = args.start
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        while alive and len(rows) < len(urls) * args.levels and max(carried.values()) < most:
            for way in list(alive):
                level = Level(way, urls[way], streams, args.seconds)
                for _ in range(TRIES):
                    found = pool.submit(run_level, level, paths).result()
                    p99 = float(np.percentile([seconds for _, (seconds, _) in found], 99))
                    texts.setdefault(way, {}).update({which: text for which, (_, text) in found})
                    rows.append(
                        {"way": way, "streams": streams, "finals": len(found), "p99_ms": round(1000 * p99)}
                    )
                    print(f"{way:>8} {streams:>5} streams: p99 of finals {1000 * p99:6.0f} ms", flush=True)
                    if p99 <= limit:
                        carried[way] = streams
                        break
                else:
                    alive.remove(way)
            streams = min(most, max(streams + 1, int(streams * args.factor)))
    return {
        "limit_ms": round(1000 * limit),
        "max_streams": most,
        "carried": carried,
        "ratio_gateway_to_grpc": round(carried["gateway"] / max(1, carried["grpc"]), 3),
        "ratio_embedded_to_gateway": round(carried["embedded"] / max(1, carried["gateway"]), 3),
        "same_texts": {way: _same(texts["grpc"], texts[way]) for way in ("gateway", "embedded")},
        "levels": rows,
    }


def _same(one: dict[int, str], other: dict[int, str]) -> str:
    both = set(one) & set(other)
    return f"{sum(one[which] == other[which] for which in both)} of {len(both)}"


async def idle_megabytes(url: str, process: int, count: int) -> dict[str, float]:
    """What the gateway weighs before and with ``count`` WebSockets that say nothing."""
    before, sockets = memory_megabytes([process]), []
    for _ in range(count):
        sockets.append(await websockets.connect(f"{url.replace('http', 'ws', 1)}/v1/realtime"))
        await sockets[-1].recv()
    after = memory_megabytes([process])
    for socket in sockets:
        await socket.close()
    return {"sockets": count, "before_mb": round(before, 1), "with_mb": round(after, 1)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repository", type=Path, default=ROOT / "triton", help="a model repository (default triton/)")
    add("--manifest", type=Path, required=True, help="whose utterances are spoken")
    add("--utterances", type=int, default=50, help="of the manifest, at most (default 50)")
    add("--start", type=int, default=8, help="streams at first (default 8)")
    add("--factor", type=float, default=1.2, help="from a level to the next (default 1.2)")
    add("--levels", type=int, default=20, help="at most (default 20)")
    add("--seconds", type=float, default=15.0, help="of a level (default 15)")
    add("--sockets", type=int, default=500, help="that say nothing (default 500)")
    add("--out", type=Path, default=ROOT / "bench/results/gateway_streams.json", help="the figures, as JSON")
    return parser.parse_args()


def main() -> None:
    args = parse()
    paths = [entry["audio_filepath"] for entry in list(read_manifest(args.manifest))[: args.utterances]]
    with tempfile.TemporaryDirectory() as folder, TritonServer(args.repository, ROOT / ".server") as server:
        log = Path(folder) / "log"
        process, url = start_gateway(["--triton", server.url], log)
        embedded = ["--engine", "embedded", "--repository", str(args.repository), "--embedded-streams", "999"]
        alone, alone_url = start_gateway(embedded, log.with_name("embedded"))
        try:
            with StreamingClient(server.url) as client:
                limit, most = client.sizes().chunk_seconds, client.sizes().max_streams
            idle = asyncio.run(idle_megabytes(url, process.pid, args.sockets))
            print(
                f"{args.sockets} silent sockets: {idle['before_mb']} MB to {idle['with_mb']} MB", flush=True
            )
            figures = ramp(
                args, {"grpc": server.url, "gateway": url, "embedded": alone_url}, paths, limit, most
            )
        finally:
            for one in (process, alone):
                one.terminate()
                one.wait()
    report = {"idle": idle, **figures, **provenance(["uvicorn", "websockets", "tritonclient", "numpy"])}
    with atomic_write(args.out) as stream:
        json.dump(report, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    print(f"carried {figures['carried']}")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
