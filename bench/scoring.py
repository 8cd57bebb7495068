"""Time the scoring of transcripts beside jiwer on the same texts:

    python bench/scoring.py [--utterances 20000] [--out bench/results/scoring.json]

Ours is everything that recipes/evaluate.py counts (CER with and without spaces, WER, sWER, onset, nucleus
and coda errors, confusions); jiwer's is its CER and WER. One core, random texts of about KsponSpeech's length
with a CER of 11 %.
"""

import argparse
import json
import random
import time
from pathlib import Path

import jiwer

from ko_asr.errors import run_main
from ko_asr.evaluation import metrics
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance

# 2,000 frequent-looking syllables, open and closed, so that alignments see partial matches as real text has
SYLLABLES = [
    chr(0xAC00 + (onset * 21 + nucleus) * 28 + coda)
    for onset in range(19)
    for nucleus in range(0, 21, 2)
    for coda in (0, 0, 1, 4, 8, 16)
]


def sentence(rng: random.Random) -> str:
    return " ".join("".join(rng.choices(SYLLABLES, k=rng.randint(1, 5))) for _ in range(rng.randint(3, 12)))


def misheard(text: str, rng: random.Random) -> str:
    """Make 3 % deletions, 7 % substitutions and 2 % added spaces."""
    heard = []
    for char in text:
        draw = rng.random()
        if draw < 0.03:
            continue
        heard.append(rng.choice(SYLLABLES) if draw < 0.10 else char)
        if draw > 0.98:
            heard.append(" ")
    return " ".join("".join(heard).split())


def best_seconds(function, repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=20_000)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    rng = random.Random(0)
    references = [sentence(rng) for _ in range(args.utterances)]
    hypotheses = [misheard(text, rng) for text in references]

    ours = best_seconds(lambda: metrics.score(references, hypotheses, "strict"))
    theirs = best_seconds(
        lambda: (
            jiwer.process_characters(references, hypotheses),
            jiwer.process_words(references, hypotheses),
        )
    )
    result = metrics.score(references, hypotheses, "strict")
    if abs(result.total("cer").rate - jiwer.cer(references, hypotheses)) > 1e-12:
        raise AssertionError("CER differs from jiwer's")
    figures = {
        "utterances": args.utterances,
        "mean_characters": sum(map(len, references)) / args.utterances,
        "cer": result.total("cer").rate,
        "ours_utterances_per_second": args.utterances / ours,
        "jiwer_cer_and_wer_utterances_per_second": args.utterances / theirs,
    } | provenance(["numpy", "rapidfuzz", "jiwer"])
    corpus = f"{args.utterances} utterances of {figures['mean_characters']:.1f} characters"
    print(f"{corpus}, CER {figures['cer']:.3f}, one core, utterances a second:")
    print(f"{figures['ours_utterances_per_second']:>10.0f}  evaluation.metrics, every figure, jamo included")
    print(f"{figures['jiwer_cer_and_wer_utterances_per_second']:>10.0f}  jiwer, CER and WER only")
    if args.out:
        with atomic_write(args.out) as stream:
            json.dump(figures, stream, indent=2)
        print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
