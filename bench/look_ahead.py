"""Measure what look-ahead costs: the CER of trained streaming models at each of theirs.

    python bench/look_ahead.py A.nemo B.nemo C.nemo --manifest data/demo/eval_clean.jsonl

Give models of one config and several seeds (model.train_ds.seed=N), because a difference between look-aheads
says little below the difference between seeds. A frame waits for its chunk to be full, and CTC may emit a
token later still. CER with spaces counted, in process.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance

ROOT = Path(__file__).resolve().parent


def measure(model: Path, entries: list[dict], clips: list[np.ndarray]) -> list[dict[str, Any]]:
    """Times and CER of each look-ahead of one model."""
    from ko_asr.evaluation.metrics import Counts, character_counts
    from ko_asr.recognition.streaming import StreamingRecognizer

    points = []
    recognizer = StreamingRecognizer.load(model, backend="torch", threads=2, max_batch=len(clips))
    for look_ahead in recognizer.contract.look_aheads:
        recognizer = StreamingRecognizer.load(model, look_ahead, "torch", threads=2, max_batch=len(clips))
        texts = transcribe(recognizer, clips)
        counts = sum(
            (character_counts(entry["text"], text) for entry, text in zip(entries, texts, strict=True)),
            start=Counts(0, 0, 0, 0),
        )
        contract = recognizer.contract
        points.append(
            {
                "look_ahead_frames": look_ahead,
                "look_ahead_ms": round(1000 * contract.frame_seconds * look_ahead),
                "chunk_ms": round(1000 * contract.chunk_seconds),
                "cer": counts.rate,
            }
        )
        print(f"  {model.stem}, {points[-1]['look_ahead_ms']:5} ms: CER {counts.rate:.2%}", flush=True)
    return points


def transcribe(recognizer: Any, clips: list[np.ndarray]) -> list[str]:
    sessions = [recognizer.open() for _ in clips]
    for session, clip in zip(sessions, clips, strict=True):
        session.feed(clip)
        session.end()
    final = dict.fromkeys(sessions, "")
    while turn := recognizer.step():
        for session, results in turn:
            final[session] = results[-1].text if results else final[session]
    for session in sessions:
        session.close()
    return list(final.values())


def gather(found: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """For each look-ahead the CER of every model, their mean and range."""
    points = []
    for same in zip(*found, strict=True):
        rates = [point["cer"] for point in same]
        spread = {"mean": statistics.mean(rates), "least": min(rates), "greatest": max(rates)}
        points.append(same[0] | {"cer": rates} | spread)
        print(
            f"look-ahead {same[0]['look_ahead_ms']:5} ms: CER {spread['mean']:.2%} "
            f"({spread['least']:.2%} to {spread['greatest']:.2%})"
        )
    return points


def plot(points: list[dict[str, Any]], title: str, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    points = sorted(points, key=lambda point: point["chunk_ms"])
    ticks = [point["chunk_ms"] for point in points]
    mean = np.array([100 * point["mean"] for point in points])
    edges = np.array([[100 * point[name] for point in points] for name in ("least", "greatest")])
    axes.errorbar(ticks, mean, yerr=np.abs(edges - mean), marker="o", capsize=3)
    for point in points:
        place = (point["chunk_ms"], 100 * point["mean"])
        label = f"[70,{point['look_ahead_frames']}]"
        axes.annotate(label, place, (4, 8), textcoords="offset points", rotation=45)
    top = 1.25 * edges.max()
    axes.set(xlabel="chunk, ms: a frame waits at most this long", ylabel="CER, %", title=title, ylim=(0, top))
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", nargs="+", type=Path, metavar="NEMO", help="trained streaming models of one config")
    add("--manifest", type=Path, required=True, help="what to transcribe with them")
    add("--title", default="synthetic speech", help="what the plot says of the audio")
    add("--out", type=Path, default=ROOT / "results" / "look_ahead.json")
    options = parser.parse_args()
    from ko_asr.audio.stream import AudioStream
    from ko_asr.data.manifest import read_manifest
    from ko_asr.models.nemo_file import read_config

    shapes = [read_config(model)["encoder"]["att_context_size"] for model in options.models]
    if any(shape != shapes[0] for shape in shapes):
        raise UserError("the models have different look-aheads: give models of one config")
    entries = list(read_manifest(options.manifest))
    clips = [np.concatenate(list(AudioStream(entry["audio_filepath"]))) for entry in entries]
    points = gather([measure(model, entries, clips) for model in options.models])
    plot(points, options.title, options.out.with_suffix(".png"))
    result = {"cer": points} | provenance(["torch", "nemo-toolkit", "numpy"])
    with atomic_write(options.out) as stream:
        json.dump(result, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    print(f"wrote {options.out}")
    return 0


if __name__ == "__main__":
    run_main(main)
