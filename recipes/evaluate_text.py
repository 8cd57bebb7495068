"""Written Korean, case by case: how often a normaliser writes a spoken sentence as people do.

    python recipes/evaluate_text.py CASES.tsv
    python recipes/evaluate_text.py CASES.tsv --normaliser rules --normaliser nemo --failures
    python recipes/evaluate_text.py CASES.tsv --normaliser "my_normaliser --lines"
    python recipes/evaluate_text.py --nvidia DIR

CASES.tsv begins with the line class<TAB>spoken<TAB>written; `|` separates the accepted styles of written. A
case is exact when one of them comes, and its value is right when one of them comes in another style: commas,
spaces, ₩ or 원, colons in times (ko_asr.evaluation.written_value). A normaliser is `rules`
(ko_asr.finishing), `nemo` (NVIDIA's, in an environment of its own: make setup-nemo-itn) or any command that
answers line by line. DIR is tests/nemo_text_processing/ko/data_inverse_text_normalization of NVIDIA's
repository NeMo-text-processing, whose lines are spoken~written.
"""

import argparse
import json
from pathlib import Path

from ko_asr.errors import run_main
from ko_asr.evaluation.normalisers import NEMO, RULES, normaliser
from ko_asr.evaluation.written_cases import by_class, comparison, failures, read_cases, read_nvidia, results
from ko_asr.finishing.command import chosen_style

ROOT = Path(__file__).resolve().parents[1]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path, nargs="?", metavar="CASES.tsv", help="class, spoken, written")
    parser.add_argument(
        "--nvidia", type=Path, metavar="DIR", help="NVIDIA's test cases, spoken~written, instead of CASES.tsv"
    )
    parser.add_argument(
        "--normaliser",
        action="append",
        metavar=f"{RULES}|{NEMO}|COMMAND",
        help=f"which to measure (repeatable; default {RULES})",
    )
    parser.add_argument(
        "--style",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"a choice of style of {RULES}, such as large=digits (repeatable)",
    )
    parser.add_argument("--failures", action="store_true", help="print the cases that are not exact")
    parser.add_argument("--json", action="store_true", help="print figures and all results as JSON")
    args = parser.parse_args()
    if (args.cases is None) == (args.nvidia is None):
        parser.error("give either CASES.tsv or --nvidia DIR")
    return args


def main() -> int:
    args = arguments()
    cases = read_nvidia(args.nvidia) if args.nvidia else read_cases(args.cases)
    style = chosen_style(args.style)
    # what cannot run is told before anything does
    normalisers = {name: normaliser(name, style, ROOT) for name in args.normaliser or [RULES]}
    found = {name: results(cases, run) for name, run in normalisers.items()}
    if args.json:
        card = {
            name: {"classes": by_class(rows), "results": [row.to_json() for row in rows]}
            for name, rows in found.items()
        }
        print(json.dumps(card, ensure_ascii=False, indent=1))
        return 0
    for name, rows in found.items() if args.failures else ():
        print(failures(name, rows))
    print(comparison({name: by_class(rows) for name, rows in found.items()}))
    return 0


if __name__ == "__main__":
    run_main(main)
