"""Compare measures of confidence: how well each separates right words from wrong, and its calibration:

    python bench/confidence.py --model X.nemo --manifest data/demo/eval_other.jsonl [--manifest ...]

Words (어절) of the greedy text are right where an alignment by whole words finds them in the reference. For
each measure: AUROC (0.5 is chance), the expected calibration error over ten bins, the mean on right and wrong
words. Besides the probability of tokens (what `ko_asr.runtime.results` uses, by its least sure token) it
measures averages over frames, blanks included or not, and the entropies of Laptev and Ginsburg 2022
(arXiv:2212.08703, Gibbs and Tsallis with alpha 1/3, linearly normalised). Writes JSON and a reliability
diagram of ours.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.runtime.ctc import Token, collapse
from ko_asr.runtime.results import words

ROOT = Path(__file__).resolve().parent
OURS = "least sure token"
ALPHA = 1 / 3
BINS = 10


def frame_measures(log_probs: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the confidence of each frame by log-probabilities [T, V], 1 for certainty."""
    size = log_probs.shape[1]
    probs = np.exp(log_probs)
    tsallis = ((probs**ALPHA).sum(1) - 1) / (size ** (1 - ALPHA) - 1)
    return {
        "probability": probs.max(1),
        "Gibbs entropy": 1 + (probs * log_probs).sum(1) / np.log(size),
        "Tsallis entropy": 1 - tsallis,
    }


def word_measures(tokens: list[Token], frames: dict[str, np.ndarray]) -> dict[str, float]:
    """Compute every measure of one word, which is ``tokens``."""
    best = np.exp([token.log_prob for token in tokens])
    found = {
        OURS: best.min(),
        "mean of tokens": best.mean(),
        "product of tokens": best.prod(),
    }
    spoken = np.concatenate([np.arange(token.start, token.end) for token in tokens])
    span = np.arange(tokens[0].start, tokens[-1].end)
    for name, values in frames.items():
        for part, where in (("with blanks", span), ("without blanks", spoken)):
            found[f"{name}, mean of frames {part}"] = values[where].mean()
            found[f"{name}, least frame {part}"] = values[where].min()
    return {name: float(value) for name, value in found.items()}


def by_word(tokens: list[Token], vocabulary) -> list[list[Token]]:
    """Group tokens from word boundary to word boundary, where there is something to read."""
    groups: list[list[Token]] = []
    for token in tokens:
        open_text = vocabulary.text(t.id for t in groups[-1]).strip() if groups else ""
        if not groups or (vocabulary.begins_word(token.id) and open_text):
            groups.append([])
        groups[-1].append(token)
    return [group for group in groups if vocabulary.text(t.id for t in group).strip()]


def observe(model, manifests: list[Path]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Compute the measures of every recognised word, and whether it is right."""
    from tqdm import tqdm

    from ko_asr.audio.read import read_segment

    rows, right = [], []
    for entry in tqdm([entry for path in manifests for entry in read_manifest(path)], unit="utterance"):
        every = model([read_segment(entry, model.sample_rate)])[0]
        order = np.argsort(every.ids, axis=1)
        log_probs = np.take_along_axis(every.log_probs, order, axis=1)
        tokens = collapse(every.ids[:, 0], model.blank_id, every.log_probs[:, 0])
        found = words(tokens, model.vocabulary, model.frame_ms)
        groups, frames = by_word(tokens, model.vocabulary), frame_measures(log_probs)
        if len(groups) != len(found):
            raise UserError(f"{entry['audio_filepath']}: tokens inside a word begin with a space")
        correct = np.zeros(len(found), bool)
        for step in Levenshtein.opcodes(entry["text"].split(), [word.text for word in found]):
            correct[step.dest_start : step.dest_end] = step.tag == "equal"
        for word, group in zip(found, groups, strict=True):
            rows.append(word_measures(group, frames) | {OURS: word.confidence})
        right += correct.tolist()
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}, np.array(right)


def reliability(confidence: np.ndarray, right: np.ndarray) -> list[dict[str, float]]:
    """Compute mean confidence and share of right words in each of ten bins."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        {"confidence": confidence[k].mean(), "right": right[k].mean(), "words": int(k.sum())}
        for k in (place == number for number in range(BINS))
        if k.any()
    ]


def figures(confidence: np.ndarray, right: np.ndarray) -> dict[str, float]:
    from scipy.stats import mannwhitneyu

    bins = reliability(confidence, right)
    errors = [abs(b["confidence"] - b["right"]) * b["words"] for b in bins]
    statistic = mannwhitneyu(confidence[right], confidence[~right]).statistic
    return {
        "auroc": float(statistic / (right.sum() * (~right).sum())),
        "ece": float(sum(errors) / len(right)),
        "mean_right": float(confidence[right].mean()),
        "mean_wrong": float(confidence[~right].mean()),
    }


def plot(bins: list[dict], result: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(4.5, 4.5))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.scatter(
        [b["confidence"] for b in bins], [b["right"] for b in bins], s=[4 + b["words"] for b in bins]
    )
    axes.set(xlabel="confidence of the word", ylabel="share of right words", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{result['words']} words, ECE {result['measures'][OURS]['ece']:.3f}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a .nemo file")
    parser.add_argument("--manifest", type=Path, action="append", required=True, help="repeatable")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "confidence.json")
    args = parser.parse_args()
    from ko_asr.models.frame_model import FrameModel

    model = FrameModel.load(args.model, "cpu")
    model.top = model.blank_id + 1
    measures, right = observe(model, args.manifest)
    if right.all() or not right.any():
        raise UserError("every word is right, or every word wrong: there is nothing to tell apart")
    result = {
        "model": args.model.name,
        "manifests": [path.name for path in args.manifest],
        "words": len(right),
        "right": float(right.mean()),
        "measures": {name: figures(values, right) for name, values in measures.items()},
        "reliability": [{k: float(v) for k, v in b.items()} for b in reliability(measures[OURS], right)],
    } | provenance(("numpy", "torch", "nemo_toolkit"))
    print(f"{len(right)} words, {right.mean():.1%} right{'':<27}AUROC    ECE  right  wrong")
    for name, f in sorted(result["measures"].items(), key=lambda item: -item[1]["auroc"]):
        print(f"{name:<52}{f['auroc']:>6.3f}{f['ece']:>7.3f}{f['mean_right']:>7.2f}{f['mean_wrong']:>7.2f}")
    with atomic_write(args.out) as stream:
        json.dump(result, stream, indent=1)
        stream.write("\n")
    plot(result["reliability"], result, args.out.with_suffix(".png"))
    print(f"wrote {args.out} and {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    run_main(main)
