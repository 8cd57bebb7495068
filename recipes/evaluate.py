"""Score a model on a manifest: transcribe with NeMo, count the errors, say where they are.

    python recipes/evaluate.py --model X.nemo --manifest data/demo/eval_clean.jsonl --out evaluations/x
    python recipes/evaluate.py --model B.nemo --manifest ... --out evaluations/b --against evaluations/x
    python recipes/evaluate.py --predictions evaluations/x --profile icefall --out evaluations/x_icefall
    python recipes/evaluate.py --model X.nemo --manifest ... --out evaluations/lm --lm lm/ksponspeech \
        --tune data/ksponspeech/dev.jsonl

Writes predictions.jsonl (the manifest's fields with pred_text, cer, wer), scores.json (figures, rules,
command, versions, machine) and report.html (one page, plots, the worst utterances playable). Works with any
.nemo that transcribes speech, and with --predictions on transcripts of any other system: JSON lines with
audio_filepath, duration, text and pred_text. With --lm (recipes/train_lm.py) or --boost-words the transcripts
are NeMo's beam_batch's; greedy ones of the same run stand beside them, with the significance of the change.
Where the manifest has dual transcriptions (written or spoken beside text), the transcripts are finished
(ko_asr.finishing) and the written form is scored as well.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unicodedata import normalize

from ko_asr.data.manifest import read_manifest, write_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.evaluation.metrics import PROFILES
from ko_asr.files import atomic_write
from ko_asr.finishing.command import chosen_style
from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.models.device import device_of
from ko_asr.models.nemo_file import check_nemo_file, tokenizer_bytes
from ko_asr.provenance import provenance, sha256
from ko_asr.text import language_model
from ko_asr.text.plain_files import text_lines

PACKAGES = ("nemo_toolkit", "torch", "lhotse", "numpy", "rapidfuzz", "soundfile")
UNREADABLE = "unreadable.jsonl"  # in --out


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
    parser.add_argument(
        "--style",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a choice of style of the written form, scored where the manifest has dual transcriptions",
    )
    parser.add_argument("--worst", type=int, default=20, help="utterances to show in the report")
    parser.add_argument("--limit", type=int, help="only the first N utterances")
    beam = parser.add_argument_group("beam search (CTC models)")
    beam.add_argument("--lm", type=Path, help="language model folder, of recipes/train_lm.py")
    beam.add_argument("--tune", type=Path, metavar="DEV", help="manifest to tune alpha and beta of --lm on")
    beam.add_argument("--tune-limit", type=int, default=500, help="utterances of it, evenly spread")
    beam.add_argument("--alpha", type=float, help="weight of the language model, if not as tuned")
    beam.add_argument("--beta", type=float, help="bonus of each token, if not as tuned")
    beam.add_argument("--beam-size", type=int, default=8)
    beam.add_argument("--boost-words", type=Path, metavar="FILE", help="words to prefer, one a line")
    beam.add_argument("--boost-weight", type=float, default=1.0, help="how much (default 1)")
    args = parser.parse_args()
    if args.model and not args.manifest:
        parser.error("--model needs --manifest")
    if (args.lm or args.boost_words) and not args.model:
        parser.error("--lm and --boost-words need --model")
    if args.tune and (not args.lm or args.alpha is not None or args.beta is not None):
        parser.error("--tune needs --lm and finds --alpha and --beta itself")
    if args.tune and args.tune.resolve() == args.manifest.resolve():
        parser.error("--tune and --manifest are the same: tune on dev, and evaluate on what was not seen")
    if args.beam_size < 1 or args.tune_limit < 1:
        parser.error("--beam-size and --tune-limit must be at least 1")
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


def check_beam(args: argparse.Namespace) -> None:
    """Raise UserError for a language model or word list that cannot be used, before NeMo is imported."""
    if args.lm:
        import sentencepiece

        model = tokenizer_bytes(args.model)
        if model is None:
            raise UserError(f"{args.model} has no SentencePiece tokenizer, which --lm needs")
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = [processor.id_to_piece(token) for token in range(processor.get_piece_size())]
        language_model.read_description(args.lm, pieces)
    if args.boost_words and not boosted_words(args.boost_words):
        raise UserError(f"{args.boost_words} holds no word: write one a line")


def boosted_words(path: Path | None) -> list[str]:
    return [normalize("NFC", line) for line in text_lines(path)] if path else []


def beam_search(args: argparse.Namespace, model: Any) -> dict:
    """Make ``model`` decode with beam search, tuned where asked for; returns what the scores say about it."""
    from tqdm import tqdm

    from ko_asr.evaluation import beam_batch

    weights = language_model.read_weights(args.lm) if args.lm else language_model.FusionWeights(0.0, 0.0)
    weights = replace(
        weights,
        alpha=weights.alpha if args.alpha is None else args.alpha,
        beta=weights.beta if args.beta is None else args.beta,
    )
    words = boosted_words(args.boost_words)
    beam_batch.use_beam_batch(model, args.lm, weights, words, args.boost_weight, args.beam_size)
    said: dict[str, Any] = {"strategy": "beam_batch", "beam_size": args.beam_size}
    if args.lm:
        said["language_model"] = {"path": str(args.lm), "sha256": sha256(args.lm / language_model.ARPA)}
    if args.tune:
        entries = read_references(args.tune, None)
        entries = entries[:: max(1, len(entries) // args.tune_limit)][: args.tune_limit]
        total = len(beam_batch.ALPHAS) * len(beam_batch.BETAS)
        with tqdm(total=total, desc="tuning", unit=" trials", file=sys.stderr) as bar:
            weights, trials = beam_batch.tune(
                model, entries, args.profile, args.batch_size, args.batch_seconds, bar.update
            )
        beam_batch.set_weights(model, weights)
        tuned = {
            "on": str(args.tune),
            "sha256": sha256(args.tune),
            "utterances": len(entries),
            "trials": trials,
        }
        said["tuning"] = tuned
        with atomic_write(args.lm / language_model.WEIGHTS) as stream:
            json.dump(
                {"alpha": weights.alpha, "beta": weights.beta, "model": sha256(args.model)} | tuned, stream
            )
        print(f"tuned on {args.tune}: alpha {weights.alpha}, beta {weights.beta}", flush=True)
    if words:
        said["boosted"] = {"words": len(words), "weight": args.boost_weight}
    return said | {"alpha": weights.alpha, "beta": weights.beta}


def transcribe(
    args: argparse.Namespace, model: Any, entries: list[dict], field: str, unreadable: dict[str, str]
) -> float:
    """Fill in ``field`` of every entry with its transcript; returns the seconds that it took.

    Entries whose audio cannot be read are taken out, and go to ``unreadable`` with the reason.
    """
    from tqdm import tqdm

    from ko_asr.models import transcribe as transcription

    total = round(sum(entry["duration"] for entry in entries))
    start = time.perf_counter()
    lost: dict[int, str] = {}
    with tqdm(total=total, unit="s", unit_scale=True, desc="transcribing", file=sys.stderr) as bar:
        texts = transcription.transcribe(
            model, entries, args.batch_size, args.batch_seconds, bar.update, lost.__setitem__
        )
    for entry, text in zip(entries, texts, strict=True):
        entry[field] = text
    unreadable |= {entries[k]["audio_filepath"]: reason for k, reason in sorted(lost.items())}
    entries[:] = [entry for k, entry in enumerate(entries) if k not in lost]
    if not entries:
        raise UserError(f"no audio of {args.manifest} can be read, the first: {next(iter(lost.values()))}")
    return time.perf_counter() - start


def write_unreadable(folder: Path, unreadable: dict[str, str], total: int) -> None:
    """Write unreadable.jsonl where there is something to write, and print what the scores leave out."""
    if not unreadable:
        (folder / UNREADABLE).unlink(missing_ok=True)
        return
    with atomic_write(folder / UNREADABLE) as stream:
        for path, reason in unreadable.items():
            stream.write(json.dumps({"audio_filepath": path, "reason": reason}, ensure_ascii=False) + "\n")
    print(
        f"{len(unreadable)} of {total} utterances could not be read and are in no score: see "
        f"{folder / UNREADABLE}; the first: {next(iter(unreadable.values()))}"
    )


def run_model(args: argparse.Namespace, entries: list[dict], unreadable: dict[str, str]) -> dict:
    """Fill in ``pred_text`` of every entry (and ``greedy_text`` beside a beam); returns the run's figures.

    Entries whose audio cannot be read are moved to ``unreadable``, by path with the reason.
    """
    import torch

    from ko_asr.models import transcribe as transcription

    device = device_of(args.device)
    print(f"loading {args.model}", flush=True)
    model = transcription.load_transcriber(args.model, device)
    unwritable = transcription.check_vocabulary(model, [entry["text"] for entry in entries])
    if args.att_context:
        transcription.set_attention_context(model, args.att_context)
    total = sum(entry["duration"] for entry in entries)
    decoding: dict[str, Any] = {}
    if args.lm or args.boost_words:
        transcribe(args, model, entries, "greedy_text", unreadable)
        decoding = {"decoding": beam_search(args, model)}
    seconds = transcribe(args, model, entries, "pred_text", unreadable)
    return decoding | {
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


def main() -> int:
    args = arguments()
    unreadable: dict[str, str] = {}
    from ko_asr.evaluation import scorecard as evaluation
    from ko_asr.evaluation import written_score

    if args.model:
        check_nemo_file(args.model)
        check_beam(args)
    others = evaluation.read_predictions(args.against) if args.against else None
    if args.predictions:
        entries = evaluation.read_predictions(args.predictions)[: args.limit]
        run = {"predictions": str(args.predictions)}
    else:
        entries = read_references(args.manifest, args.limit)
    style = chosen_style(args.style)
    finish = Finisher(FinishOptions(style=style))
    check_writable(args.out)
    # a misspelt field is told now and not after the transcription
    evaluation.slice_labels(entries, args.by)
    evaluation.bootstrap_groups(entries, args.bootstrap_by)
    if args.model:
        run = run_model(args, entries, unreadable)
    if others is not None:
        others = [entry for entry in others if entry.get("audio_filepath") not in unreadable]

    card, scores = evaluation.scorecard(entries, args.profile, args.by, args.bootstrap_by)
    card |= run
    if written_score.is_dual(entries):
        card["written"] = written_score.written_card(
            entries, lambda text: finish(text).text, args.profile, style
        )
    if "decoding" in run:
        greedy = [entry | {"pred_text": entry["greedy_text"]} for entry in entries]
        card["greedy"] = {"metrics": evaluation.compare(entries, greedy, args.profile, args.bootstrap_by)}
    if others is not None:
        metrics = evaluation.compare(entries, others, args.profile, args.bootstrap_by)
        card["against"] = {"other": str(args.against), "metrics": metrics}
    card |= provenance(PACKAGES)
    entries = evaluation.with_utterance_rates(entries, scores)

    from ko_asr.evaluation.report import render

    shown = {key: card[key] for key in ("command", "created", "machine", "versions", *run) if key in card}
    name = args.model.stem if args.model else str(args.predictions)
    corpus = args.manifest.stem if args.manifest else "transcripts"
    page = render(card, entries, f"{name} on {corpus}", shown, args.worst)
    write_manifest(args.out / "predictions.jsonl", entries)
    with atomic_write(args.out / "report.html") as stream:
        stream.write(page)
    with atomic_write(args.out / "scores.json") as stream:
        json.dump(card, stream, ensure_ascii=False, indent=2)
    write_unreadable(args.out, unreadable, len(entries) + len(unreadable))
    print(evaluation.table(card))
    if "written" in card:
        print(written_score.table(card["written"]))
    print(f"wrote {args.out}/scores.json, predictions.jsonl and report.html (open it in a browser)")
    if args.model and not unreadable:
        print(f"next: python export/to_triton.py --model {args.model}")
    return 1 if unreadable else 0


if __name__ == "__main__":
    run_main(main)
