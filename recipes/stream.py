"""Watch a model listen: partial and final results of a microphone, or of a file at the speed of speech.

    python recipes/stream.py --mic
    python recipes/stream.py speech.wav --realtime --look-ahead 1
    python recipes/stream.py speech.wav                        # as fast as it can

On a terminal the partial is written over itself; elsewhere there is one line a final, with its seconds and
its confidence. With --written both are shown as they are written (3월 5일에 15,000원). At the end: latency
figures (defined in `ko_asr.recognition.latency`) and how often partials were revised.

A cache-aware model streams exactly, with the --look-ahead (encoder frames) that it was trained with; any
other EncDecCTCModelBPE is given windows of --left, --chunk and --right seconds, which costs accuracy and
latency.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.audio.stream import AudioStream
from ko_asr.errors import UserError, run_main
from ko_asr.finishing import command
from ko_asr.models.nemo_file import newest_model, read_config
from ko_asr.recognition import search
from ko_asr.recognition.latency import CountingDecoder, LatencyMeter
from ko_asr.recognition.terminal import Terminal, file_packets, microphone_packets, sound_library
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.endpoint import LONGEST_MS, EndpointRules

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
RATE = 16_000  # Hz


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", metavar="FILE", type=Path, help="any audio that libsndfile reads")
    source.add_argument("--mic", action="store_true", help="the microphone, until Ctrl-C")
    add("--realtime", action="store_true", help="feed FILE at the speed at which it was spoken")
    add("--model", type=Path, help="a .nemo file (default: the newest under experiments/)")
    add("--look-ahead", type=int, metavar="N", help="of a cache-aware model (default: its first)")
    add("--left", type=float, default=4.0, help="seconds before the chunk, for other models (default 4)")
    add("--chunk", type=float, default=1.0, help="seconds of the chunk (default 1)")
    add("--right", type=float, default=1.0, help="seconds after the chunk (default 1)")
    add("--packet-ms", type=float, default=40.0, help="audio handed over at once (default 40)")
    add("--silence-ms", type=float, default=500.0, help="silence that ends an utterance (default 500)")
    add("--max-utterance-ms", type=float, default=12_000.0, help="longest utterance (default 12000)")
    add("--input-device", help="number or name of the microphone (default: the system's)")
    search.add_arguments(parser)
    command.add_arguments(parser)
    args = parser.parse_args()
    times = (args.packet_ms, args.silence_ms, args.max_utterance_ms, 1000 * args.chunk)
    if not all(0 < time_ms <= LONGEST_MS for time_ms in times):
        parser.error(
            "--packet-ms, --silence-ms, --max-utterance-ms and --chunk must be positive, and at most a day"
        )
    if min(args.left, args.right) < 0:
        parser.error("--left and --right must not be negative")
    return args


def open_session(args: argparse.Namespace, path: Path) -> tuple[Any, Any, CountingDecoder]:
    """Open a session of the model at ``path``, cache-aware or buffered; return it with its decoder."""
    how = search.Search.of(args)
    rules = EndpointRules(args.silence_ms, None, args.max_utterance_ms)
    recognizer: Any
    if read_config(path).get("encoder", {}).get("att_context_style") == "chunked_limited":
        from ko_asr.recognition.streaming import StreamingRecognizer

        recognizer = StreamingRecognizer.load(path, args.look_ahead)
        blank_id, frame_ms = recognizer.contract.blank_id, 1000.0 * recognizer.contract.frame_seconds
        vocabulary = recognizer.vocabulary
    else:
        if args.look_ahead is not None:
            raise UserError(f"{path} is a full-context model without a look-ahead: leave --look-ahead out")
        from ko_asr.models.frame_model import FrameModel
        from ko_asr.recognition.buffered import BufferedRecognizer

        model = FrameModel.load(path, "cpu", top=how.top)
        recognizer = BufferedRecognizer(model, args.left, args.chunk, args.right)
        vocabulary, blank_id, frame_ms = model.vocabulary, model.blank_id, model.frame_ms
    decoder = how.decoder(DecoderSettings(vocabulary, blank_id, frame_ms, rules), args.finish)
    counting = CountingDecoder(decoder)
    return recognizer.open(counting), decoder, counting


def listen(
    session: Any, counting: CountingDecoder, packets: Iterator[np.ndarray]
) -> tuple[LatencyMeter, float]:
    """Feed the session and show its results; return the latencies and the seconds of audio."""
    meter, terminal, samples = LatencyMeter(), Terminal(), 0
    begun = 0.0
    with contextlib.suppress(KeyboardInterrupt):
        for packet in packets:
            begun = begun or time.perf_counter() - len(packet) / RATE
            before, started = counting.chunks, time.perf_counter()
            results = session.push(packet)
            now = time.perf_counter()
            if chunks := counting.chunks - before:
                meter.computed(now - started, chunks)
            meter.see(results, now - begun)
            terminal.show(results)
            samples += len(packet)
    results = session.flush()
    meter.see(results, time.perf_counter() - begun)
    terminal.show(results)
    return meter, samples / RATE


def report(meter: LatencyMeter, decoder: Any, seconds: float, wall: float, paced: bool) -> None:
    print(f"\n{seconds:.1f} s of audio in {wall:.1f} s", file=sys.stderr)
    for name, figure in meter.figures(paced).items():
        line = f"{name:<20} p50 {figure['p50']:8.1f} ms   p99 {figure['p99']:8.1f} ms   ({figure['count']})"
        print(line, file=sys.stderr)
    if not paced:
        print("(first partial and final after speech are measured with --realtime or --mic)", file=sys.stderr)
    print(f"partials revised     {decoder.revised} of {decoder.partials}", file=sys.stderr)


def main() -> None:
    args = arguments()
    args.finish = command.read_options(args)
    path = args.model or newest_model(EXPERIMENTS)
    with contextlib.ExitStack() as stack:
        library = sound_library() if args.mic else None
        audio = None if args.mic else stack.enter_context(AudioStream(args.file, RATE))
        print(f"loading {path}", file=sys.stderr, flush=True)
        session, decoder, counting = open_session(args, path)
        size = max(1, round(args.packet_ms * RATE / 1000))
        if audio is None:
            packets = microphone_packets(library, RATE, size, args.input_device)
            print("listening, end with Ctrl-C", file=sys.stderr, flush=True)
        else:
            packets = file_packets(audio, size, args.realtime)
        started = time.perf_counter()
        meter, seconds = listen(session, counting, packets)
    report(meter, decoder, seconds, time.perf_counter() - started, args.mic or args.realtime)
    print("next: python recipes/transcribe.py FILE for files and subtitles", file=sys.stderr)


if __name__ == "__main__":
    run_main(main)
