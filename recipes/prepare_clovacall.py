"""ClovaCall to NeMo manifests, FLAC and a written audit.

    python recipes/prepare_clovacall.py --corpus /data/ClovaCall --out data/clovacall

A run that was stopped goes on where it was when the same command is given again.
"""

import argparse
from pathlib import Path

from ko_asr.corpora.clovacall import ClovaCall
from ko_asr.corpora.layout import outside_of
from ko_asr.data.command import add_arguments, run_recipe
from ko_asr.errors import run_main

TOKENIZERS = Path(__file__).resolve().parents[1] / "tokenizers"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder that holds the unpacked corpus")
    parser.add_argument("--version", choices=("raw", "clean"), default="raw", help="where both are there")
    add_arguments(parser, TOKENIZERS)
    args = parser.parse_args()
    outside_of(args.corpus, args.out)
    return run_recipe(ClovaCall(args.corpus, args.version), args)


if __name__ == "__main__":
    run_main(main)
