"""Recordings of your own to NeMo manifests, FLAC and a written audit.

    python recipes/prepare_folder.py --corpus recordings --out data/mine                  # x.wav beside x.txt
    python recipes/prepare_folder.py --corpus recordings --table texts.tsv --out data/mine

A table has a header with at least audio and text; split, start and end are understood, all others are kept.
Without named splits --dev-share of the utterances become dev. Texts that mark what was said, as KsponSpeech's
do ((20개)/(스무 개), n/, 어/), need --style; in plain texts such marks are a reason for rejection. A run that
was stopped goes on when the same command is given again.
"""

import argparse
from pathlib import Path

from ko_asr.corpora.folder import Folder
from ko_asr.corpora.layout import outside_of
from ko_asr.data.command import add_arguments, run_recipe
from ko_asr.errors import run_main
from ko_asr.text.normalizer import add_style_argument

TOKENIZERS = Path(__file__).resolve().parents[1] / "tokenizers"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder that holds the audio")
    parser.add_argument(
        "--table", type=Path, help="TSV or CSV (default: metadata.tsv or .csv in the folder, if any)"
    )
    parser.add_argument(
        "--dev-share", type=float, default=0.05, help="share drawn for dev without named splits"
    )
    add_style_argument(parser)
    add_arguments(parser, TOKENIZERS)
    args = parser.parse_args()
    if not 0 <= args.dev_share < 1:
        parser.error("--dev-share must be at least 0 and below 1")
    outside_of(args.corpus, args.out)
    return run_recipe(Folder(args.corpus, args.table, args.dev_share, args.style), args)


if __name__ == "__main__":
    run_main(main)
