"""Compare unigram, syllable and jamo, each trained from scratch at equal budget on synthetic speech.

    python bench/tokenizer_comparison.py --work /tmp/tokenizer_comparison        # about 15 minutes on 2 cores
    python bench/tokenizer_comparison.py --work DIR --steps 3000 --tokenizers jamo syllable bpe

Equal budget is equal optimiser steps over the same batches: one encoder (size xs), one learning rate and
schedule, the same utterances in the same order, so that every model has heard the same speech as often.
Seconds are not equal, and stand beside the scores: jamo needs 4x subsampling, whose encoder has twice the
frames of 8x. The demo corpus, in the layout of KsponSpeech, is made in --work when it is not there. What an
interrupted run has finished is kept, training continues, and another --steps trains other models.

Read the table for what it is. A CTC output must be seen often to be learnt, so an hour of one synthesiser's
voice favours few symbols: each jamo occurs hundreds of times there, most syllables and sub-words a few times.
On a thousand hours that advantage goes, and published work finds syllables and sub-words ahead of plain jamo
(Wang et al., Interspeech 2020). The table says how fast each unit is learnt from little data and what it
costs; which unit is best on real speech, only real speech can say. Each model is compared with that of the
first tokenizer named, utterance by utterance (paired bootstrap).
"""

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
SUBSAMPLING = {"jamo": 4, "syllable": 8, "unigram": 8, "bpe": 8, "jamo-bpe": 8}
SPLITS = ("eval_clean", "eval_other")
CORPUS, DATA = Path("data/demo_corpus"), Path("data/demo")
PACKAGES = ("nemo_toolkit", "torch", "lhotse", "sentencepiece", "numpy")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for corpus, models and scores")
    parser.add_argument(
        "--tokenizers", nargs="+", choices=SUBSAMPLING, default=["jamo", "syllable", "unigram"],
        help="the others are compared with the first (default: jamo syllable unigram)",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, default=1000, help="of the optimiser, each (default 1000)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "bench/results/tokenizer_comparison.json", help="JSON file"
    )
    args = parser.parse_args()
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    if len(set(args.tokenizers)) < len(args.tokenizers):
        parser.error("--tokenizers names one twice")
    return args


def run(script: str, *options: str | Path, done: Path | None = None) -> None:
    """Run a script of this project unless ``done`` exists. UserError when it fails, after its own message."""
    line = shlex.join(["python", script, *map(str, options)])
    if done is not None and done.exists():
        print(f"== {done} is there: {line}", flush=True)
        return
    print(f"== {line}", flush=True)
    status = subprocess.run([sys.executable, ROOT / script, *map(str, options)], check=False).returncode
    if status:
        raise UserError(f"{script} ended with status {status}, for the reason above; run this again after it")


def prepare() -> None:
    run("recipes/make_demo_corpus.py", "--out", CORPUS, done=CORPUS / "held_out/held_out.txt")
    run("recipes/prepare_ksponspeech.py", "--corpus", CORPUS, "--out", DATA, done=DATA / "eval_other.jsonl")


def model_name(kind: str, steps: int) -> str:
    return f"tokenizer_{kind}_{steps}"


def model_file(kind: str, steps: int) -> Path:
    name = model_name(kind, steps)
    return Path("experiments") / name / "checkpoints" / f"{name}.nemo"


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def train(kind: str, steps: int) -> None:
    """Train tokenizer and model of one kind; add the cost of each start to the run's cost.jsonl."""
    tokenizer, model = Path("tokenizers") / kind, model_file(kind, steps)
    run("tokenizers/build.py", "--type", kind, "--manifest", DATA / "train.jsonl", "--out", tokenizer,
        done=tokenizer / "tokenizer.model")  # fmt: skip
    if model.exists():
        print(f"== {model} is there", flush=True)
        return
    name, factor = model_name(kind, steps), SUBSAMPLING[kind]
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    try:
        run("recipes/train_ctc.py", "--config-name", "fastconformer_ko_demo", f"name={name}",
            f"trainer.max_steps={steps}", f"model.encoder.subsampling_factor={factor}",
            f"data.dir={DATA}", f"data.tokenizer={tokenizer}")  # fmt: skip
    finally:
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cost = {"wall_seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(cpu, 1)}
        if model.parents[1].is_dir():
            with (model.parents[1] / "cost.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(cost | {"load_average": round(os.getloadavg()[1], 1)}) + "\n")


def training_cost(kind: str, steps: int) -> dict:
    """Sum wall and CPU seconds over every start of the run; None for a run of which a start was killed."""
    folder = model_file(kind, steps).parents[1]
    lines = (folder / "cost.jsonl").read_text(encoding="utf-8").splitlines()
    costs = [json.loads(line) for line in lines]
    complete = len(costs) == len(read_json(folder / "run/run.json")["starts"])
    return {
        "starts": len(costs),
        "wall_seconds": sum(cost["wall_seconds"] for cost in costs) if complete else None,
        "cpu_seconds": sum(cost["cpu_seconds"] for cost in costs) if complete else None,
        "load_average": max(cost["load_average"] for cost in costs),
    }


def scores_of(kind: str, reference: str, steps: int) -> dict[str, dict]:
    """Score a model with recipes/evaluate.py on each eval set, compared with the reference tokenizer's."""
    model, found = model_file(kind, steps), {}
    for split in SPLITS:
        out = Path("results") / model.stem / split
        against = Path("results") / model_name(reference, steps) / split
        options = ["--against", against] if kind != reference else []
        manifest = DATA / f"{split}.jsonl"
        card = read_json(out / "scores.json") if (out / "scores.json").exists() else {}
        fresh = card.get("against", {}).get("other") == (str(against) if options else None)
        run("recipes/evaluate.py", "--model", model, "--manifest", manifest, "--out", out, *options,
            done=out / "scores.json" if card and fresh else None)  # fmt: skip
        found[split] = read_json(out / "scores.json")
    return found


def compact(card: dict) -> dict:
    """Return rates, intervals and significance out of a scores.json."""
    metrics = {
        name: {key: card["metrics"][name][key] for key in ("rate", "interval95", "reference")}
        for name in ("cer", "cer_no_spaces", "wer", "onset", "nucleus", "coda")
    }
    against = card.get("against", {}).get("metrics", {})
    for name in ("cer", "coda"):
        if name in against:
            metrics[name]["against_reference"] = against[name]
    return metrics


def figures(kind: str, reference: str, steps: int, tokens: dict) -> dict:
    """Gather everything that is measured of one tokenizer."""
    cards, factor = scores_of(kind, reference, steps), SUBSAMPLING[kind]
    heard = sum(card["audio_seconds"] for card in cards.values())
    model = model_file(kind, steps)
    return {
        "tokenizer": kind,
        "subsampling": factor,
        "pieces": tokens["pieces"],
        "tokens_per_second": tokens["tokens_per_second"],
        "infeasible_share": tokens["infeasible"][f"{factor}x"],
        "parameters": cards[SPLITS[0]]["model"]["parameters"],
        "nemo_bytes": model.stat().st_size,
        "training": training_cost(kind, steps),
        "rtfx": round(heard / sum(card["transcription_seconds"] for card in cards.values()), 1),
        "scores": {split: compact(card) for split, card in cards.items()},
    }


def rate(metric: dict) -> str:
    """Format per cent with its interval, and a star where it differs from the reference at p < 0.05."""
    low, high = metric["interval95"]
    star = "*" if metric.get("against_reference", {}).get("p_value", 1.0) < 0.05 else ""
    return f"{100 * metric['rate']:.2f}{star} ({100 * low:.2f} to {100 * high:.2f})"


def markdown(rows: Iterable[dict]) -> str:
    """Format one row a tokenizer."""
    heads = ["tokenizer", "pieces", "tokens/s", "infeasible"]
    for split in SPLITS:
        heads += [f"CER % `{split}`", f"받침 % `{split}`"]
    heads += ["training s: wall / CPU", "RTFx", "parameters", ".nemo MB"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        cost = row["training"]
        seconds = [f"{cost[k]:.0f}" if cost[k] else "-" for k in ("wall_seconds", "cpu_seconds")]
        cells = [f"{row['tokenizer']} {row['subsampling']}x", f"{row['pieces']:,}"]
        cells += [f"{row['tokens_per_second']:.1f}", f"{row['infeasible_share']:.2%}"]
        cells += [rate(row["scores"][split][name]) for split in SPLITS for name in ("cer", "coda")]
        cells += [" / ".join(seconds), f"{row['rtfx']:.0f}", f"{row['parameters']:,}"]
        lines.append("| " + " | ".join([*cells, f"{row['nemo_bytes'] / 1e6:.1f}"]) + " |")
    return "\n".join(lines)


def main() -> None:
    args = arguments()
    out = args.out.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    os.chdir(args.work)
    prepare()
    for kind in args.tokenizers:
        train(kind, args.steps)
    folders = [Path("tokenizers") / kind for kind in args.tokenizers]
    run("tokenizers/compare.py", *folders, "--manifest", DATA / "train.jsonl", "--out", "results/tokenizers")
    tokens = read_json(Path("results/tokenizers/tokenizers.json"))["tokenizers"]
    reference = args.tokenizers[0]
    rows = [
        figures(kind, reference, args.steps, token)
        for kind, token in zip(args.tokenizers, tokens, strict=True)
    ]
    text = markdown(rows)
    note = f"Synthetic speech. * differs from {reference}: paired bootstrap, p < 0.05."
    result = {
        "corpus": f"synthetic (espeak-ng), {sum(1 for _ in (DATA / 'train.jsonl').open('rb'))} utterances",
        "budget": {"optimiser_steps": args.steps, "most_audio_seconds_per_step": 30, "size": "xs"},
        "reference": reference,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "tokenizers": rows,
    } | provenance(PACKAGES)
    with atomic_write(out) as stream:
        json.dump(result, stream, ensure_ascii=False, indent=1)
    with atomic_write(out.with_suffix(".md")) as stream:
        stream.write(f"{text}\n\n{note}\n")
    print(f"\n{text}\n\n{note}\nwrote {out} and {out.with_suffix('.md').name}")
    print(
        "next: the same on your own speech, python recipes/train_ctc.py --config-name fastconformer_ko_jamo"
    )


if __name__ == "__main__":
    run_main(main)
