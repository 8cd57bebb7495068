"""Synthesise a Korean speech corpus in KsponSpeech's layout, for the demo and for tests.

    python recipes/make_demo_corpus.py --out data/demo/corpus

The speech is espeak-ng's (synthetic), the sentences come from a small grammar; the layout, encodings and
quirks are KsponSpeech's, so prepare_ksponspeech.py reads it like the real corpus.
"""

import argparse
import functools
import os
from pathlib import Path

from ko_asr.corpora.demo import DEFAULT_UTTERANCES, split_sizes, write_corpus
from ko_asr.errors import UserError, run_main


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the corpus")
    parser.add_argument(
        "--utterances",
        type=int,
        default=DEFAULT_UTTERANCES,
        help="training utterances; dev, eval_clean, eval_other: an eighteenth of that each (default 1800)",
    )
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same bytes (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: every core)")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.utterances < 1 or args.jobs < 1:
        raise UserError("--utterances and --jobs must be at least 1")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file; name a folder")
    from tqdm import tqdm

    total = sum(split_sizes(args.utterances).values())
    progress = functools.partial(tqdm, total=total, unit="utt", desc="speaking")
    hours = write_corpus(args.out, args.utterances, args.seed, args.jobs, progress)
    listing = ", ".join(f"{split} {value:.2f} h" for split, value in hours.items())
    print(f"wrote {total} utterances of synthetic speech to {args.out}: {listing}")
    print(f"a sentence of no split: {args.out / 'held_out' / 'held_out.wav'}")
    manifests = args.out.parent / "manifests"
    print(f"next: python recipes/prepare_ksponspeech.py --corpus {args.out} --out {manifests}")


if __name__ == "__main__":
    run_main(main)
