"""Command line that every corpus recipe has, from its arguments to its exit status."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ko_asr.corpora.base import Corpus
from ko_asr.corpora.layout import outside_of
from ko_asr.data.audit import write_audit
from ko_asr.data.prepare import prepare
from ko_asr.data.split_result import SplitResult
from ko_asr.errors import UserError
from ko_asr.text.normalizer import add_text_arguments, normalizer_from

DEFAULT_MAX_REJECTED = 0.01


def corpus_arguments(description: str | None, tokenizers: Path) -> argparse.Namespace:
    """Parse the command line of a recipe that needs no more than ``--corpus`` and `add_arguments`.

    Raises UserError when ``--out`` lies inside the corpus.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True, help="folder that holds the unpacked corpus")
    add_arguments(parser, tokenizers)
    args = parser.parse_args()
    outside_of(args.corpus, args.out)
    return args


def add_arguments(parser: argparse.ArgumentParser, tokenizers: Path) -> None:
    """Add the arguments that every corpus recipe has; the audit covers what is built in ``tokenizers``."""
    parser.set_defaults(tokenizers_folder=tokenizers)
    parser.add_argument("--out", type=Path, required=True, help="folder of manifests, audio/ and the audit")
    parser.add_argument("--splits", help="only these, comma-separated (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: every core)")
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        default="",
        help="convert on this Ray cluster (auto, local, ray://...)",
    )
    parser.add_argument(
        "--shards",
        type=int,
        metavar="UTTERANCES",
        default=0,
        help="write the training split into tar shards of so many utterances, not into single files",
    )
    parser.add_argument(
        "--max-rejected",
        type=float,
        metavar="FRACTION",
        default=DEFAULT_MAX_REJECTED,
        help="exit status 1 when more of a split is rejected (default %(default)s)",
    )
    parser.add_argument(
        "--tokenizers",
        type=Path,
        nargs="*",
        metavar="DIR",
        help="tokenizers to tell CTC feasibility for (default: every tokenizers/NAME that is built)",
    )
    add_text_arguments(parser)


def run_recipe(corpus: Corpus, args: argparse.Namespace) -> int:
    """Prepare ``corpus`` by the parsed `add_arguments`, print what was written, return the exit status."""
    if args.jobs < 1 or not 0 <= args.max_rejected <= 1:
        raise UserError("--jobs must be at least 1 and --max-rejected between 0 and 1")
    splits = _chosen(corpus, args.splits)
    normalizer = normalizer_from(args, corpus.style)
    if args.shards < 0:
        raise UserError("--shards is the number of utterances of a shard, 512 say")
    tokenizers = _checked(args.tokenizers) if args.tokenizers is not None else built(args.tokenizers_folder)
    results = prepare(corpus, args.out, normalizer, splits, args.jobs, args.ray, args.shards)
    audit = write_audit(corpus, results, normalizer, args.out, tokenizers)
    print("\n".join(audit["summary"]))
    failures = [problem for result in results if (problem := _failure(result, args.max_rejected))]
    for problem in failures:
        print(f"FAILED {problem}")
    print(f"audit: {args.out / 'audit.html'} (audit.json, data_card.md, rejected.jsonl beside it)")
    train = args.out / f"{corpus.splits()[0]}.jsonl"
    if not failures and train.exists():
        print(f"next: python tokenizers/build.py --type unigram --manifest {train} --out tokenizers/unigram")
    return 1 if failures else 0


def _chosen(corpus: Corpus, names: str | None) -> list[str]:
    available = corpus.splits()
    chosen = [name.strip() for name in names.split(",")] if names else available
    for name in chosen:
        if name not in available:
            raise UserError(f"{corpus.title} has no split '{name}': choose from {', '.join(available)}")
    return chosen


def _failure(result: SplitResult, max_rejected: float) -> str:
    if result.kept == 0:
        return (
            f"{result.split}: nothing could be kept, no manifest written; the reasons are in rejected.jsonl"
        )
    if result.rejected_share > max_rejected:
        rejected = sum(result.rejected.values())
        return (
            f"{result.split}: {rejected} of {result.lines} lines rejected ({result.rejected_share:.2%}), "
            f"more than --max-rejected {max_rejected}; the reasons are in rejected.jsonl"
        )
    return ""


def built(folder: Path) -> list[Path]:
    """Return the folders below ``folder`` that hold a built tokenizer."""
    return sorted(path.parent for path in folder.glob("*/tokenizer.model"))


def _checked(folders: Sequence[Path]) -> Sequence[Path]:
    for folder in folders:
        if not (folder / "tokenizer.model").is_file():
            raise UserError(
                f"no tokenizer in {folder}: build one with python tokenizers/build.py --out {folder}"
            )
    return folders
