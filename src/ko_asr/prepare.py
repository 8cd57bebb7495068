"""From a corpus to manifests, FLAC, audit, report and data card: what every recipes/prepare_*.py shares.

Utterances stream through bounded chunks: text rules and audio conversion run in worker processes (or on a
Ray cluster), this process writes manifests, remembers what is done and keeps a few numbers an utterance.
"""

import argparse
import dataclasses
import itertools
import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ko_asr.conversion import ChunkResult, FlacFiles, Outcome, Task, process
from ko_asr.corpus import Corpus, Utterance
from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.prepare_state import State, exclusive
from ko_asr.shard_store import into_shards
from ko_asr.text import Normalizer, add_text_arguments, normalizer_from
from ko_asr.workers import ordered_map

CHUNK = 64  # utterances a task: about 8 MB of samples at most, and little handing over
DEFAULT_MAX_REJECTED = 0.01
MOST_TEXT_SHOWN = 1000  # characters of a rejected text: a binary file taken for a script has longer lines

# One number an utterance, kept for the audit: (column, array type). 620,000 utterances cost 40 MB.
_COLUMNS = {
    "samples": "l",
    "syllables": "i",
    "jamo": "i",
    "text_digest": "q",
    "audio_digest": "q",
    "offset": "q",  # of the line in the manifest, to find an utterance again
    "peak": "f",
    "clipped": "i",
    "dc": "f",
    "rms_db": "f",
    "silent": "f",
    "correlation": "f",
}


@dataclass
class SplitResult:
    """Counts and columns of one prepared split."""

    split: str
    manifest: Path
    lines: int = 0
    kept: int = 0
    reused: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    rules: Counter[str] = field(default_factory=Counter)
    repairs: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)
    columns: dict[str, array] = field(default_factory=lambda: {n: array(t) for n, t in _COLUMNS.items()})

    @property
    def rejected_share(self) -> float:
        return sum(self.rejected.values()) / max(1, self.lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that every corpus recipe has."""
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
    """Prepare ``corpus`` as the parsed `add_arguments` say, print what was written, return the status."""
    if args.jobs < 1 or not 0 <= args.max_rejected <= 1:
        raise UserError("--jobs must be at least 1 and --max-rejected between 0 and 1")
    splits = _chosen(corpus, args.splits)
    normalizer = normalizer_from(args, corpus.style)
    if args.shards < 0:
        raise UserError("--shards is the number of utterances of a shard, 512 say")
    results = prepare(corpus, args.out, normalizer, splits, args.jobs, args.ray, args.shards)
    from ko_asr.audit import write_audit

    audit = write_audit(corpus, results, normalizer, args.out, args.tokenizers)
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


def prepare(
    corpus: Corpus,
    out: Path,
    normalizer: Normalizer,
    splits: Iterable[str],
    jobs: int = 1,
    ray_address: str = "",
    shards: int = 0,
) -> list[SplitResult]:
    """Write FLAC and manifests of ``splits`` below ``out``; return what the audit needs.

    ``shards``, when not 0, is the number of utterances of one tar shard of the training split.
    Resumable: see `prepare_state`. A split's manifest appears whole, when the split is done; a split of
    which nothing can be kept has none. Raises UserError and OSError for what ends a run.
    """
    with ordered_map(jobs, ray_address) as run, exclusive(out):
        state = State(out, corpus.name)
        seen: set[int] = set()
        try:
            with atomic_write(out / "rejected.jsonl") as rejected:
                return [
                    _prepare_split(corpus, split, out, normalizer, state, seen, run, rejected, size)
                    for split in splits
                    for size in [shards if split == corpus.splits()[0] else 0]
                ]
        finally:
            state.close()


def _prepare_split(
    corpus: Corpus,
    split: str,
    out: Path,
    normalizer: Normalizer,
    state: State,
    seen: set[int],
    run: Callable[..., Iterator[ChunkResult]],
    rejected: IO[str],
    shards: int,
) -> SplitResult:
    result = SplitResult(split, out / f"{split}.jsonl")
    store = FlacFiles(out.absolute())
    result.manifest.unlink(missing_ok=True)  # an old one may name files that are about to change

    def tasks() -> Iterator[Task]:
        for chunk in _batched(corpus.utterances(split), shards or CHUNK):
            known = {} if shards else state.find([u.id for u in chunk])
            yield Task(_mark_duplicates(chunk, seen), known, normalizer, store)

    chunks = into_shards(run, tasks(), out / "shards" / split) if shards else run(process, tasks())
    with atomic_write(result.manifest, "wb") as manifest, _progress(corpus, split) as bar:
        for chunk in chunks:
            if not shards:
                state.add(outcome.new for outcome in chunk.outcomes if outcome.new)
            result.rules.update(chunk.rules)
            result.characters.update(chunk.characters)
            for outcome in chunk.outcomes:
                _record(outcome, result, manifest, rejected)
            bar.update(len(chunk.outcomes))
    state.commit()
    if not result.kept:
        result.manifest.unlink()
    return result


def _batched(utterances: Iterator[Utterance], size: int) -> Iterator[list[Utterance]]:
    while chunk := list(itertools.islice(utterances, size)):
        yield chunk


def _mark_duplicates(chunk: list[Utterance], seen: set[int]) -> list[Utterance]:
    """Give a problem to utterances whose id occurred before, in this split or an earlier one."""
    marked = []
    for utterance in chunk:
        key = hash(utterance.id)  # 64 bits of siphash: a collision among a million ids has odds of 1 to 10^7
        if key in seen and not utterance.problem:
            utterance = dataclasses.replace(utterance, problem="duplicate id")
        seen.add(key)
        marked.append(utterance)
    return marked


def _record(outcome: Outcome, result: SplitResult, manifest: IO[bytes], rejected: IO[str]) -> None:
    """Account for one utterance: in the manifest and the columns, or among the rejected."""
    result.lines += 1
    if outcome.reason:
        result.rejected[outcome.reason.split(" (")[0]] += 1
        rejected.write(_rejection(outcome))
        return
    assert outcome.facts is not None
    columns, facts = result.columns, outcome.facts
    columns["offset"].append(manifest.tell())
    manifest.write(outcome.line.encode(errors="replace"))  # JSON corpora can hold lone surrogates
    result.kept += 1
    result.reused += outcome.new is None
    result.repairs.update(outcome.repairs)
    for name in ("syllables", "jamo", "text_digest", "audio_digest"):
        columns[name].append(getattr(outcome, name))
    for name in ("samples", "peak", "clipped", "dc", "rms_db", "silent", "correlation"):
        columns[name].append(getattr(facts, name))


def _rejection(outcome: Outcome) -> str:
    utterance = outcome.utterance
    entry = {
        "split": utterance.split,
        "id": utterance.id,
        "where": utterance.where,
        "audio": str(utterance.source),
        "reason": outcome.reason,
        "text": utterance.text[:MOST_TEXT_SHOWN],
    }
    return json.dumps(entry, ensure_ascii=False).encode(errors="replace").decode() + "\n"


def _progress(corpus: Corpus, split: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=corpus.count(split), desc=split, unit="utt", mininterval=0.5)
