"""Run thousands of broken streams beside healthy ones: no word may leak, no place, no memory be lost.

    python bench/soak.py --repository triton --manifest data/demo/eval_clean.jsonl --sequences 10000

Each broken stream begins with the audio of some utterance and then is abandoned, cancelled in flight,
cancelled and ended, or ended early. Meanwhile --witnesses streams speak whole utterances, over and over; each
must get the words that it got from the quiet server. Triton's reaper is made to meet all this: idle streams
are over after two seconds in the copy of the repository that is served. At the end every place must be free
again. Exit status 1 when a witness heard another word, when a place is lost, or when memory grew by more
than --max-growth-mb after the first fifth.
"""

import argparse
import asyncio
import json
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tqdm import tqdm

from ko_asr.client.connection import ServerError, StreamsFull
from ko_asr.client.streaming import AsyncStream, AsyncStreamingClient
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("abandoned", "cancelled", "cancelled and ended", "ended early")
IDLE, TIME_TO_LIVE = 2.0, 3.0  # seconds
WHOLE = StreamOptions(endpointing=None)


@dataclass
class Tally:
    """Counts of what happened."""

    broken: Counter = field(default_factory=Counter)
    refused: int = 0
    compared: int = 0
    leaks: list[str] = field(default_factory=list)
    memory_mb: list[dict[str, float]] = field(default_factory=list)


def impatient_copy(repository: Path, folder: Path, idle: float, time_to_live: float) -> Path:
    """Copy ``repository``, with streams that are over after ``idle`` seconds."""
    copy = folder / "triton"
    shutil.copytree(repository, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.glob("asr_streaming*/config.pbtxt"):
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"(max_sequence_idle_microseconds: )\d+", rf"\g<1>{int(1e6 * idle)}", text)
        text = re.sub(
            r'(key: "time_to_live"\s+value \{\s+string_value: ")[^"]+', rf"\g<1>{time_to_live}", text
        )
        path.write_text(text, encoding="utf-8")
    return copy


def memory_mb(process: int) -> dict[str, float]:
    """Read the resident memory of the server and its model processes, by name."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    sizes = {}
    for pid in (str(process), *children):
        words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
        name = next(
            (Path(word).parents[1].name for word in words[1:2] if word.endswith("model.py")), "server"
        )
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        resident = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
        sizes[name] = round(sizes.get(name, 0.0) + resident, 1)
    return sizes


def words(results: list[Result]) -> list[str]:
    return [word.text for result in results if result.is_final for word in result.words]


async def transcript(client: AsyncStreamingClient, audio: np.ndarray) -> list[str]:
    """Return the words of a whole stream without end-points."""
    async with await client.open(WHOLE) as stream:
        await stream.send(audio)
        await stream.finish()
        return words([result async for result in stream])


async def answered(stream: AsyncStream) -> None:
    """Wait until all that was sent is answered."""
    while stream.unanswered:
        await asyncio.sleep(0.01)


async def broken(client: AsyncStreamingClient, audio: np.ndarray, kind: str, tally: Tally) -> bool:
    """Break a stream after one to four chunks; return False when the server had no place for it."""
    stream = await client.open(WHOLE)
    sizes = await client.sizes()
    size = sizes.first_samples + random.randint(0, 3) * sizes.shift_samples
    try:
        await stream.send(audio[:size])
        if "cancelled" in kind:
            await asyncio.sleep(random.uniform(0.0, 0.05))
        else:
            await answered(stream)
        tally.broken[kind] += 1
        return True
    except StreamsFull:
        tally.refused += 1
        await asyncio.sleep(0.2)
        return False
    finally:
        await stream.close(notify="ended" in kind)


async def witness(client: AsyncStreamingClient, audio: np.ndarray, wanted: list[str], tally: Tally) -> None:
    """Stream one utterance beside the broken streams and compare its words."""
    try:
        heard = await transcript(client, audio)
    except StreamsFull:
        return
    tally.compared += 1
    if heard != wanted:
        tally.leaks.append(f"wanted {' '.join(wanted)} | heard {' '.join(heard)}")


async def every_place_is_free(client: AsyncStreamingClient, audio: np.ndarray) -> int:
    """Count the server's places that can be taken, all at once."""
    sizes = await client.sizes()
    streams = [await client.open(WHOLE) for _ in range(sizes.max_streams)]
    taken = 0
    for stream in streams:
        await stream.send(audio[: sizes.first_samples])
    for stream in streams:
        try:
            await answered(stream)
            taken += 1
        except ServerError:
            pass
    await asyncio.gather(*(stream.close() for stream in streams))
    return taken


async def soak(args: argparse.Namespace, server: TritonServer, audio: list[np.ndarray]) -> dict[str, Any]:
    tally, started = Tally(), time.perf_counter()
    async with AsyncStreamingClient(server.url, reconnect=0.0, timeout=30.0) as client:
        wanted = [await transcript(client, samples) for samples in audio[: args.witnesses]]
        over = asyncio.Event()

        async def speak(index: int) -> None:
            while not over.is_set():
                await witness(client, audio[index], wanted[index], tally)

        witnesses = [asyncio.create_task(speak(index)) for index in range(len(wanted))]
        turn = asyncio.Semaphore(args.concurrency)
        with tqdm(total=args.sequences, desc="broken streams", disable=None) as bar:

            async def break_one(number: int) -> None:
                async with turn:
                    while not await broken(client, random.choice(audio), KINDS[number % len(KINDS)], tally):
                        pass
                bar.update()
                if number % max(1, args.sequences // 5) == 0:
                    tally.memory_mb.append(memory_mb(server.process.pid))

            await asyncio.gather(*(break_one(number) for number in range(args.sequences)))
        over.set()
        await asyncio.gather(*witnesses)
        await asyncio.sleep(TIME_TO_LIVE + IDLE)
        tally.memory_mb.append(memory_mb(server.process.pid))
        free = await every_place_is_free(client, audio[0])
        return summary(tally, free, (await client.sizes()).max_streams, time.perf_counter() - started)


def summary(tally: Tally, free: int, places: int, seconds: float) -> dict[str, Any]:
    early, late = tally.memory_mb[min(1, len(tally.memory_mb) - 1)], tally.memory_mb[-1]
    return {
        "broken": dict(tally.broken),
        "refused": tally.refused,
        "witness_utterances": tally.compared,
        "leaks": tally.leaks[:20],
        "places": places,
        "places_free_at_the_end": free,
        "memory_mb": tally.memory_mb,
        "growth_mb": round(sum(late.values()) - sum(early.values()), 1),
        "seconds": round(seconds, 1),
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--repository", type=Path, default=Path("triton"), help="with asr_streaming (default triton)")
    add("--manifest", type=Path, required=True, help="whose utterances are spoken")
    add("--sequences", type=int, default=10_000, help="broken streams (default 10000)")
    add("--concurrency", type=int, default=32, help="of them at a time (default 32)")
    add("--witnesses", type=int, default=4, help="healthy streams beside them (default 4)")
    add("--max-growth-mb", type=float, default=50.0, help="of all processes together (default 50)")
    add("--server", type=Path, default=ROOT / ".server", help="the server installation")
    add("--out", type=Path, default=ROOT / "bench" / "results" / "soak.json")
    args = parser.parse_args()
    if min(args.sequences, args.concurrency, args.witnesses) < 1:
        parser.error("--sequences, --concurrency and --witnesses must be positive")
    return args


def main() -> int:
    args = parse()
    if not (args.repository / "asr_streaming" / "config.pbtxt").is_file():
        raise UserError(f"{args.repository} serves no asr_streaming: export a cache-aware model first")
    entries = list(read_manifest(args.manifest))[: 8 * args.witnesses]
    audio = [soundfile.read(entry["audio_filepath"], dtype="float32")[0] for entry in entries]
    if len(audio) < args.witnesses:
        raise UserError(f"{args.manifest} has fewer utterances than --witnesses {args.witnesses}")
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        copy = impatient_copy(args.repository, Path(folder), IDLE, TIME_TO_LIVE)
        with TritonServer(copy, args.server) as server:
            result = asyncio.run(soak(args, server, audio))
    result |= provenance(["tritonclient", "numpy"])
    with atomic_write(args.out) as stream:
        json.dump(result, stream, indent=1, ensure_ascii=False)
        stream.write("\n")
    print(f"{sum(result['broken'].values())} broken streams {result['broken']}, {result['refused']} refused")
    print(f"{result['witness_utterances']} utterances beside them, {len(result['leaks'])} with another word")
    print(f"{result['places_free_at_the_end']} of {result['places']} places free at the end")
    print(f"memory grew by {result['growth_mb']} MB: {result['memory_mb'][-1]}")
    print(f"wrote {args.out}")
    lost = result["places_free_at_the_end"] < result["places"]
    return int(bool(result["leaks"]) or lost or result["growth_mb"] > args.max_growth_mb)


if __name__ == "__main__":
    run_main(main)
