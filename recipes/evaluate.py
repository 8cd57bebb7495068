"""Score a model on a manifest: transcribe with NeMo, count the errors, say where they are.

    python recipes/evaluate.py --model X.nemo --manifest data/demo/eval_clean.jsonl --out evaluations/x
    python recipes/evaluate.py --model B.nemo --manifest ... --out evaluations/b --against evaluations/x
    python recipes/evaluate.py --predictions evaluations/x --profile icefall --out evaluations/x_icefall

Writes predictions.jsonl (the manifest's fields with pred_text, cer, wer), scores.json (figures, rules,
command, versions, machine) and report.html (one page, plots, the worst utterances playable). Works with any
.nemo that transcribes speech, and with --predictions on transcripts of any other system: JSON lines with
audio_filepath, duration, text and pred_text.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.manifest import read_manifest, write_manifest
from ko_asr.metrics import PROFILES
from ko_asr.nemo_file import check_nemo_file
from ko_asr.provenance import provenance, sha256

PACKAGES = ("nemo_toolkit", "torch", "lhotse", "numpy", "rapidfuzz", "soundfile")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="a .nemo file")
    source.add_argument("--predictions", type=Path, help="score these transcripts instead of running a model")
    parser.add_argument("--manifest", type=Path, help="a NeMo manifest; needed with --model")
    parser.add_argument("--out", type=Path, required=True, help="folder for predictions, scores and report")
    parser.add_argument("--profile", choices=PROFILES, default="plain", help="whose rules to count by")
    parser.add_argument(
        "--against", type=Path, help="folder or predictions.jsonl of another system to compare with"
    )
    parser.add_argument(
        "--by", action="append", metavar="FIELD", help="manifest field to slice by (repeatable)"
    )
    parser.add_argument(
        "--bootstrap-by", metavar="FIELD", help="resample groups of this field, such as speaker"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="clips at once")
    parser.add_argument("--batch-seconds", type=float, default=600.0, help="padded seconds of audio at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--att-context", metavar="L,R", help="attention context of a cache-aware model, such as 70,6"
    )
    parser.add_argument("--worst", type=int, default=20, help="utterances to show in the report")
    parser.add_argument("--limit", type=int, help="only the first N utterances")
    args = parser.parse_args()
    if args.model and not args.manifest:
        parser.error("--model needs --manifest")
    if args.predictions and args.manifest:
        parser.error("--predictions holds the references itself: leave --manifest out")
    if args.batch_size < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--batch-size and --limit must be at least 1")
    return args


def read_references(manifest: Path, limit: int | None) -> list[dict]:
    """Entries to transcribe; UserError names the first thing that would stop the run later."""
    if not manifest.is_file():
        raise UserError(
            f"no manifest at {manifest}: prepare a corpus first, with recipes/prepare_ksponspeech.py say"
        )
    entries = list(read_manifest(manifest))[:limit]
    if not entries:
        raise UserError(f"{manifest} holds no utterance: prepare the corpus again")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry.get("text"), str) or not isinstance(entry.get("duration"), int | float):
            raise UserError(
                f"utterance {number} of {manifest} has no text or no duration: prepare the corpus again"
            )
    missing = [entry["audio_filepath"] for entry in entries if not os.path.isfile(entry["audio_filepath"])]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(entries)} audio files of {manifest} are missing, the first is "
            f"{missing[0]}: prepare the corpus again"
        )
    return entries


def check_writable(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def run_model(args: argparse.Namespace, entries: list[dict]) -> dict:
    """Fill in ``pred_text`` of every entry; returns what the scores say about the run."""
    print(f"loading {args.model}", flush=True)
    import torch
    from tqdm import tqdm

    from ko_asr import transcription

    device = ("cuda" if torch.cuda.is_available() else "cpu") if args.device == "auto" else args.device
    model = transcription.load_model(args.model, device)
    unwritable = transcription.check_vocabulary(model, [entry["text"] for entry in entries])
    if args.att_context:
        transcription.set_attention_context(model, args.att_context)
    total = sum(entry["duration"] for entry in entries)
    start = time.perf_counter()
    with tqdm(total=round(total), unit="s", unit_scale=True, desc="transcribing", file=sys.stderr) as bar:
        texts = transcription.transcribe(model, entries, args.batch_size, args.batch_seconds, bar.update)
    seconds = time.perf_counter() - start
    for entry, text in zip(entries, texts, strict=True):
        entry["pred_text"] = text
    return {
        "model": {
            "path": str(args.model),
            "sha256": sha256(args.model),
            "class": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
        },
        "manifest": {"path": str(args.manifest), "sha256": sha256(args.manifest)},
        "unwritable_characters": unwritable,
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        "threads": torch.get_num_threads(),
        "batch_size": args.batch_size,
        "transcription_seconds": round(seconds, 3),
        "rtfx": round(total / seconds, 2),
    }


def main() -> None:
    args = arguments()
    from ko_asr import evaluation

    if args.model:
        check_nemo_file(args.model)
    others = evaluation.read_predictions(args.against) if args.against else None
    if args.predictions:
        entries = evaluation.read_predictions(args.predictions)[: args.limit]
        run = {"predictions": str(args.predictions)}
    else:
        entries = read_references(args.manifest, args.limit)
    check_writable(args.out)
    # a misspelt field is told now and not after the transcription
    evaluation.slice_labels(entries, args.by)
    evaluation.bootstrap_groups(entries, args.bootstrap_by)
    if args.model:
        run = run_model(args, entries)

    card, scores = evaluation.scorecard(entries, args.profile, args.by, args.bootstrap_by)
    card |= run
    if others is not None:
        metrics = evaluation.compare(entries, others, args.profile, args.bootstrap_by)
        card["against"] = {"other": str(args.against), "metrics": metrics}
    card |= provenance(PACKAGES)
    entries = evaluation.with_utterance_rates(entries, scores)

    from ko_asr.evaluation_report import render

    shown = {key: card[key] for key in ("command", "created", "machine", "versions", *run) if key in card}
    name = args.model.stem if args.model else str(args.predictions)
    corpus = args.manifest.stem if args.manifest else "transcripts"
    page = render(card, entries, f"{name} on {corpus}", shown, args.worst)
    write_manifest(args.out / "predictions.jsonl", entries)
    with atomic_write(args.out / "report.html") as stream:
        stream.write(page)
    with atomic_write(args.out / "scores.json") as stream:
        json.dump(card, stream, ensure_ascii=False, indent=2)
    print(evaluation.table(card))
    print(f"wrote {args.out}/scores.json, predictions.jsonl and report.html (open it in a browser)")
    if args.model:
        print(f"next: python export/to_triton.py --model {args.model}")


if __name__ == "__main__":
    run_main(main)
