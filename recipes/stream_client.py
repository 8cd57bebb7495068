"""Stream speech to a Triton server and watch partials and finals come back.

    python recipes/stream_client.py speech.wav --realtime
    python recipes/stream_client.py --mic --url gpu-box:8001 --model asr_streaming_1
    python recipes/stream_client.py *.wav --concurrency 8 --json
    python recipes/stream_client.py --mic --written

On a terminal the partial is written over itself; elsewhere partials are lines that begin with dots, and a
final has its seconds and its confidence. With --json every result is a line of JSON with its file. With
--written, or an option of it, numbers and the rest are shown as they are written; JSON has both forms. A
stream that loses its server is resumed for --reconnect seconds. The exit status is 1 when a file failed.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.audio.stream import AudioStream
from ko_asr.client.connection import DEFAULT_URL, ServerError, Tls
from ko_asr.client.streaming import AsyncStream, AsyncStreamingClient, StreamingClient
from ko_asr.errors import UserError, printable, run_main
from ko_asr.finishing import command
from ko_asr.recognition.latency import LatencyMeter
from ko_asr.recognition.terminal import Terminal, file_packets, microphone_packets, sound_library
from ko_asr.runtime.endpoint import LONGEST_MS, EndpointRules
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result

RATE = 16_000  # Hz


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="*", metavar="FILE", type=Path, help="any audio that libsndfile reads")
    add("--mic", action="store_true", help="the microphone, until Ctrl-C")
    add("--url", default=DEFAULT_URL, help=f"host:port of Triton's gRPC (default {DEFAULT_URL})")
    add("--model", default="asr_streaming", help="asr_streaming, or another look-ahead: asr_streaming_1 ...")
    add("--realtime", action="store_true", help="send files at the speed at which they were spoken")
    add("--concurrency", type=int, default=1, metavar="N", help="files streamed at once (default 1)")
    add("--packet-ms", type=float, default=40.0, help="audio handed over at once (default 40)")
    add("--silence-ms", type=float, help="silence that ends an utterance (default: the server's)")
    add("--whole", action="store_true", help="no end-points: one utterance a file")
    add("--keyword", action="append", default=[], metavar="WORD[:SCORE]", help="favour a word; repeatable")
    add("--json", action="store_true", help="lines of JSON")
    add("--timeout", type=float, default=10.0, help="seconds to wait for one answer (default 10)")
    add("--reconnect", type=float, default=30.0, help="seconds to look for a lost server (default 30)")
    command.add_arguments(parser)
    Tls.add_options(parser)
    add("--input-device", help="number or name of the microphone (default: the system's)")
    args = parser.parse_args()
    if args.mic == bool(args.files):
        parser.error("name files or --mic, one of both")
    if args.silence_ms is not None and not 0 < args.silence_ms <= LONGEST_MS:
        parser.error("--silence-ms must be positive, and at most a day")
    if not (
        min(args.concurrency, args.timeout) > 0 and 0 < args.packet_ms <= LONGEST_MS and args.reconnect >= 0
    ):
        parser.error("--concurrency, --packet-ms and --timeout must be positive, --reconnect not negative")
    args.finish = command.read_options(args)
    return args


def options_of(args: argparse.Namespace) -> StreamOptions | None:
    """Make the options of the streams; None leaves everything to the server."""
    if not (args.whole or args.silence_ms or args.keyword or args.finish):
        return None
    rules = EndpointRules(silence_after_speech_ms=args.silence_ms) if args.silence_ms else EndpointRules()
    return StreamOptions(None if args.whole else rules, tuple(args.keyword), args.finish)


def connection_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `ko_asr.client.streaming.Connection` besides the address."""
    tls = Tls.of(args)
    return {"model": args.model, "timeout": args.timeout, "reconnect": args.reconnect, "tls": tls}


class Output:
    """Display of one file's results, as text or JSON, with the latencies of a stream in real time."""

    def __init__(self, args: argparse.Namespace, file: str) -> None:
        self._json, self._file = args.json, file
        several = args.concurrency > 1 and len(args.files) > 1
        self._terminal = Terminal(partial_lines=True, prefix=f"{file}: " if several else "")
        self.meter = LatencyMeter()
        self._begun = time.perf_counter()

    def show(self, *results: Result) -> None:
        """Write ``results``, each as it comes."""
        self.meter.see(results, time.perf_counter() - self._begun)
        if not self._json:
            self._terminal.show(results)
            return
        for result in results:
            print(json.dumps({"file": self._file} | result.to_json(), ensure_ascii=False), flush=True)


def listen(args: argparse.Namespace) -> list[LatencyMeter]:
    """Stream the microphone until Ctrl-C."""
    packets = microphone_packets(
        sound_library(), RATE, round(args.packet_ms * RATE / 1000), args.input_device
    )
    with StreamingClient(args.url, **connection_of(args)) as client, client.open(options_of(args)) as stream:
        print("listening, end with Ctrl-C", file=sys.stderr, flush=True)
        output = Output(args, "microphone")
        with contextlib.suppress(KeyboardInterrupt):
            for packet in packets:
                output.show(*stream.send(packet))
        output.show(*stream.finish())
    return [output.meter]


async def send(stream: AsyncStream, packets: Iterator[np.ndarray]) -> None:
    """Send all packets, each as soon as it is there; waiting for one must not hold up the other streams."""
    while (packet := await asyncio.to_thread(next, packets, None)) is not None:
        await stream.send(packet)
    await stream.finish()


async def show(stream: AsyncStream, output: Output) -> None:
    """Show all results of a stream."""
    async for result in stream:
        output.show(result)


async def stream_file(args: argparse.Namespace, client: AsyncStreamingClient, file: Path) -> LatencyMeter:
    """Stream one file from its first packet to its last result. Raises what reading or the server raised."""
    with AudioStream(file, RATE) as audio:
        size = max(1, round(args.packet_ms * RATE / 1000))
        async with await client.open(options_of(args)) as stream:
            output = Output(args, printable(file))
            packets = file_packets(audio, size, args.realtime)
            both = [asyncio.create_task(task) for task in (send(stream, packets), show(stream, output))]
            try:
                await asyncio.gather(*both)  # no result comes after a failure in reading: neither waits alone
            finally:
                for task in both:
                    task.cancel()
    return output.meter


async def stream_files(args: argparse.Namespace) -> tuple[list[LatencyMeter], int]:
    """Stream all files; return the latencies of those that succeeded, and the number of the others."""
    turn = asyncio.Semaphore(args.concurrency)
    async with AsyncStreamingClient(args.url, **connection_of(args)) as client:
        await client.sizes()

        async def one(file: Path) -> LatencyMeter | None:
            async with turn:
                try:
                    return await stream_file(args, client, file)
                except (UserError, OSError) as error:
                    where = (
                        "" if isinstance(error, UserError) and not isinstance(error, ServerError) else file
                    )
                    said = f"{where}: {error}" if where else str(error)
                    print(f"error: {printable(said)}", file=sys.stderr, flush=True)
                    return None

        meters = await asyncio.gather(*(one(file) for file in args.files))
    return [meter for meter in meters if meter is not None], meters.count(None)


def report(meters: list[LatencyMeter]) -> None:
    """Print the latencies of all streams together on standard error."""
    total = LatencyMeter()
    for meter in meters:
        total.first_partial += meter.first_partial
        total.final += meter.final
    for name, figure in total.figures(paced=True).items():
        line = f"{name:<20} p50 {figure['p50']:8.1f} ms   p99 {figure['p99']:8.1f} ms   ({figure['count']})"
        print(line, file=sys.stderr)


def main() -> int:
    args = arguments()
    meters, failed = (listen(args), 0) if args.mic else asyncio.run(stream_files(args))
    if args.mic or args.realtime:
        report(meters)
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
