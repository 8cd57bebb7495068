"""From a corpus to manifests, FLAC, audit, report and data card: what every recipes/prepare_*.py shares.

Utterances stream through bounded chunks: text rules and audio conversion run in worker processes (or on a
Ray cluster), this process writes manifests, remembers what is done and keeps a few numbers an utterance.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.data.convert import ChunkResult, FlacFiles, Outcome, Task, process
from ko_asr.data.shard_store import into_shards
from ko_asr.data.split_result import SplitResult
from ko_asr.data.state import State, exclusive
from ko_asr.data.workers import ordered_map
from ko_asr.files import atomic_write
from ko_asr.text.normalizer import Normalizer

CHUNK = 64  # utterances a task: about 8 MB of samples at most, and little handing over
MOST_TEXT_SHOWN = 1000  # characters of a rejected text: a binary file taken for a script has longer lines


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
