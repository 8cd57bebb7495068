"""FLEURS ko_kr to NeMo manifests, FLAC and a written audit.

    python recipes/prepare_fleurs.py --corpus /data/fleurs/ko_kr --out data/fleurs

A run that was stopped goes on where it was when the same command is given again.
"""

from pathlib import Path

from ko_asr.corpora.fleurs import Fleurs
from ko_asr.data.command import corpus_arguments, run_recipe
from ko_asr.errors import run_main

TOKENIZERS = Path(__file__).resolve().parents[1] / "tokenizers"


def main() -> int:
    args = corpus_arguments(__doc__, TOKENIZERS)
    return run_recipe(Fleurs(args.corpus), args)


if __name__ == "__main__":
    run_main(main)
