"""Write the model card of a .nemo: data, rules, scores, slices, sizes, limits, how to reproduce it.

    python recipes/model_card.py --model experiments/NAME/checkpoints/NAME.nemo
    python recipes/model_card.py --model X.nemo --scores evaluations/clean evaluations/other \\
        --audit data/ksponspeech/audit.json --repository triton

Without --scores it takes those under results/ and evaluations/ that carry the model's SHA-256, without
--audit the one beside the training manifest. What no file says is written as not known. export/to_triton.py
writes the same card beside each exported model.
"""

import argparse
from pathlib import Path

from ko_asr.errors import run_main
from ko_asr.models.nemo_file import check_nemo_file


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="the .nemo")
    parser.add_argument("--scores", type=Path, nargs="+", default=[], help="folders of recipes/evaluate.py")
    parser.add_argument("--audit", type=Path, help="audit.json of the training corpus")
    parser.add_argument("--repository", type=Path, help="a Triton repository that serves this model")
    parser.add_argument("--out", type=Path, help="the card (default: beside the model, NAME.md)")
    args = parser.parse_args()
    check_nemo_file(args.model)
    from ko_asr.evaluation.model_card import write_model_card

    out = args.out or args.model.with_suffix(".md")
    write_model_card(args.model, out, args.scores, args.audit, args.repository)
    print(f"wrote {out}")
    print("next: read it before you publish: what is not known is yours to fill in")


if __name__ == "__main__":
    run_main(main)
