"""Run a peer of the offline ensemble in a process of its own; bench/offline_ensemble.py starts it.

Reads one line a command from standard input: a number of seconds to run for, or "texts". Answers one line of
JSON: clips a second, or the texts of the clips. Runs in the peer's own environment: numpy and the peer only.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

Clips = list[np.ndarray]


def sherpa(options: argparse.Namespace) -> Callable[[Clips], list[str]]:
    """Load sherpa-onnx's offline recogniser on NeMo's own export, one thread."""
    import sherpa_onnx

    recognizer = sherpa_onnx.OfflineRecognizer.from_nemo_ctc(
        model=str(options.model), tokens=str(options.model.with_name("tokens.txt")), num_threads=1
    )

    def transcribe(clips: Clips) -> list[str]:
        streams = [recognizer.create_stream() for _ in clips]
        for stream, clip in zip(streams, clips, strict=True):
            stream.accept_waveform(16_000, clip)
        recognizer.decode_streams(streams)
        return [stream.result.text for stream in streams]

    return transcribe


def nemo(options: argparse.Namespace) -> Callable[[Clips], list[str]]:
    """Load NeMo's ``transcribe()`` with the threads that torch was given."""
    import torch

    from ko_asr.models.nemo_file import restore_model

    torch.set_num_threads(2)
    model = restore_model(options.model)

    def transcribe(clips: Clips) -> list[str]:
        return [item.text for item in model.transcribe(clips, batch_size=len(clips), verbose=False)]

    return transcribe


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=["sherpa", "nemo"])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--clips", type=Path, required=True, help="a .npy of float32 [clips, samples]")
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    transcribe = {"sherpa": sherpa, "nemo": nemo}[options.peer](options)
    clips = list(np.load(options.clips))
    batch = (clips * options.batch)[: options.batch]
    transcribe(batch)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        if line.strip() == "texts":
            print(json.dumps([transcribe([clip])[0] for clip in clips]), flush=True)
            continue
        done, started = 0, time.perf_counter()
        while time.perf_counter() - started < float(line):
            transcribe(batch)
            done += len(batch)
        print(json.dumps(done / (time.perf_counter() - started)), flush=True)


if __name__ == "__main__":
    main()
