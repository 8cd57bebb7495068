"""KsponSpeech, as AI Hub delivers it, to NeMo manifests, FLAC and a written audit.

    python recipes/prepare_ksponspeech.py --corpus /data/KsponSpeech --out data/ksponspeech

The corpus is searched for scripts, audio folders and zips (which need not be unpacked) and is never written
to. A run that was stopped goes on where it was when the same command is given again.
"""

import argparse
from pathlib import Path

from ko_asr.corpora.ksponspeech import KsponSpeech
from ko_asr.data.command import add_arguments, run_recipe
from ko_asr.errors import UserError, run_main

TOKENIZERS = Path(__file__).resolve().parents[1] / "tokenizers"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder that holds KsponSpeech in any layout"
    )
    parser.add_argument(
        "--zips", type=Path, metavar="DIR", help="folder of its zips, when they lie elsewhere"
    )
    add_arguments(parser, TOKENIZERS)
    return parser.parse_args()


def main() -> int:
    args = parse_arguments()
    corpus = KsponSpeech(args.corpus, args.zips)
    if args.out.absolute().is_relative_to(args.corpus.absolute()):
        raise UserError(f"--out {args.out} lies inside the corpus: choose a folder outside it")
    return run_recipe(corpus, args)


if __name__ == "__main__":
    run_main(main)
