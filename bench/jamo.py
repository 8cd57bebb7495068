"""Time the jamo tokenizer's encoding and decoding beside a syllable SentencePiece model on the same text:

    python bench/jamo.py [--lines 20000] [--out bench/results/jamo.json]

One core. The peer is a plain `char` model of the same library without tables.
"""

import argparse
import json
import random
import tempfile
import time
from pathlib import Path

import sentencepiece

from ko_asr.errors import run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.runtime.hangul import is_syllable
from ko_asr.text import tokenizer

ROOT = Path(__file__).resolve().parents[1]


def sentences(lines: int) -> list[str]:
    """Draw random words of KsponSpeech's length over every third syllable block."""
    rng = random.Random(0)
    blocks = [chr(code) for code in range(0xAC00, 0xD7A4, 3)]
    return [
        " ".join("".join(rng.choices(blocks, k=rng.randint(1, 4))) for _ in range(rng.randint(3, 12)))
        for _ in range(lines)
    ]


def rates(processor: sentencepiece.SentencePieceProcessor, lines: list[str]) -> dict[str, float]:
    """Measure million syllables a second, best of five."""
    syllables = sum(map(is_syllable, "".join(lines)))
    best = {"encode": 0.0, "decode": 0.0}
    for _ in range(5):
        started = time.perf_counter()
        tokens = processor.encode(lines, num_threads=1)
        middle = time.perf_counter()
        decoded = processor.decode(tokens, num_threads=1)
        ended = time.perf_counter()
        if decoded != lines:
            raise SystemExit("the tokenizer does not give its text back")
        best["encode"] = max(best["encode"], syllables / (middle - started) / 1e6)
        best["decode"] = max(best["decode"], syllables / (ended - middle) / 1e6)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    lines = sentences(arguments.lines)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.train("syllable", lines, Path(folder))
        result = {
            "jamo": rates(tokenizer.load(ROOT / "tokenizers/jamo"), lines),
            "syllable": rates(tokenizer.load(folder), lines),
        }
    print("million syllables a second, one core")
    for name, figures in result.items():
        print(f"  {name:<9} encode {figures['encode']:5.2f}   decode {figures['decode']:5.2f}")
    for way in ("encode", "decode"):
        print(f"  jamo / syllable, {way}: {result['jamo'][way] / result['syllable'][way]:.2f}")
    if arguments.out:
        record = {"provenance": provenance(("sentencepiece",)), "million_syllables_per_second": result}
        with atomic_write(arguments.out) as stream:
            json.dump(record, stream, indent=1)
        print(f"wrote {arguments.out}")


if __name__ == "__main__":
    run_main(main)
