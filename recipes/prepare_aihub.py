"""AI Hub's JSON corpora (자유대화, 명령어, 방언) and NIKL's to NeMo manifests, FLAC and a written audit.

    python recipes/prepare_aihub.py --corpus /data/자유대화_음성 --out data/aihub_conversation
    python recipes/prepare_aihub.py --corpus /data/방언_경상도 --form standard --out data/dialect_gs

The family is told by the labels themselves. A run that was stopped goes on when the same command is given.
"""

import argparse
from pathlib import Path

from ko_asr.corpora.aihub import FAMILIES, Dialect, archives_below, detect_family
from ko_asr.corpora.layout import outside_of
from ko_asr.data.command import add_arguments, run_recipe
from ko_asr.errors import run_main

TOKENIZERS = Path(__file__).resolve().parents[1] / "tokenizers"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder that holds the unpacked corpus")
    parser.add_argument("--family", choices=("auto", *FAMILIES), default="auto", help="what the labels are")
    parser.add_argument(
        "--form", choices=("dialect", "standard"), default="dialect", help="which text of a dialect"
    )
    add_arguments(parser, TOKENIZERS)
    args = parser.parse_args()
    outside_of(args.corpus, args.out)
    family = detect_family(args.corpus) if args.family == "auto" else args.family
    corpus = Dialect(args.corpus, args.form) if family == "dialect" else FAMILIES[family](args.corpus)
    if packed := archives_below(args.corpus):
        print(f"note: {len(packed)} archives are not read, unpacked or not: {packed[0]} and so on")
    return run_recipe(corpus, args)


if __name__ == "__main__":
    run_main(main)
