"""From a corpus to manifests and FLAC: the part of a preparation that takes the time.

Utterances stream through bounded chunks: text rules and audio conversion run in worker processes (or on a
Ray cluster), this process writes manifests, remembers what is done and keeps a few numbers an utterance.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.names import folded, readable
from ko_asr.data.convert import ChunkResult, Outcome
from ko_asr.data.file_store import FileConverter, FlacFiles
from ko_asr.data.shard_store import ShardConverter
from ko_asr.data.split_result import SplitResult
from ko_asr.data.state import State, exclusive
from ko_asr.data.workers import OrderedMap, ordered_map
from ko_asr.files import atomic_write
from ko_asr.text.normalizer import Normalizer

ALIKE = "id differs from an earlier one only in case or Unicode form"
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
    Resumable: see `ko_asr.data.state`. A split's manifest appears whole, when the split is done; a split of
    which nothing can be kept has none. Raises UserError and OSError for what ends a run.
    """
    with ordered_map(jobs, ray_address) as run, exclusive(out):
        state = State(out, corpus.name)
        try:
            with atomic_write(out / "rejected.jsonl") as rejected:
                preparation = Preparation(corpus, out, normalizer, run, state, rejected, shards)
                return [preparation.prepare(split) for split in splits]
        finally:
            state.close()


class Converter(Protocol):
    """Conversion of a split, chunk by chunk, into files (`FileConverter`) or shards (`ShardConverter`)."""

    chunk_size: int  # utterances

    def convert(self, chunks: Iterable[Sequence[Utterance]]) -> Iterator[ChunkResult]:
        """Yield the result of each chunk, in order. Raises UserError and OSError for what ends a run."""


@dataclass
class Preparation:
    """One run over a corpus: everything that its splits share."""

    corpus: Corpus
    out: Path
    normalizer: Normalizer
    run: OrderedMap
    state: State
    rejected: IO[str]
    shards: int  # utterances of one shard of the training split, 0 for single files
    seen: set[int] = field(default_factory=set)  # hashes of the ids met so far

    def prepare(self, split: str) -> SplitResult:
        """Convert one split and write its manifest."""
        result = SplitResult(split, self.out / f"{split}.jsonl")
        result.manifest.unlink(missing_ok=True)  # an old one may name files that are about to change
        converter = self._converter(split)
        chunks = map(self._mark_duplicates, _batched(self.corpus.utterances(split), converter.chunk_size))
        with atomic_write(result.manifest, "wb") as manifest, _progress(self.corpus, split) as bar:
            for chunk in converter.convert(chunks):
                result.rules.update(chunk.rules)
                result.characters.update(chunk.characters)
                for outcome in chunk.outcomes:
                    self._write(outcome, result, manifest)
                bar.update(len(chunk.outcomes))
        if not result.kept:
            result.manifest.unlink()
        return result

    def _converter(self, split: str) -> Converter:
        if self.shards and split == self.corpus.splits()[0]:
            return ShardConverter(self.run, self.normalizer, self.out / "shards" / split, self.shards)
        return FileConverter(self.run, self.normalizer, FlacFiles(self.out.absolute()), self.state)

    def _mark_duplicates(self, chunk: Sequence[Utterance]) -> Sequence[Utterance]:
        """Give a problem to utterances whose id occurred before, in this split or an earlier one.

        An id that differs only in case or Unicode form counts as well: on some disks it is the same file.
        """
        marked = []
        for utterance in chunk:
            # 64 bits of siphash: a collision among a million ids has odds of 1 to 10^7
            key, alike = hash(utterance.id), hash((folded(utterance.id),))
            if not utterance.problem:
                if key in self.seen:
                    utterance = dataclasses.replace(utterance, problem="duplicate id")
                elif alike in self.seen:
                    utterance = dataclasses.replace(utterance, problem=ALIKE)
            self.seen.update((key, alike))
            marked.append(utterance)
        return marked

    def _write(self, outcome: Outcome, result: SplitResult, manifest: IO[bytes]) -> None:
        """Write one utterance into the manifest or among the rejected, and count it."""
        result.lines += 1
        if outcome.reason:
            result.rejected[outcome.reason.split(" (")[0]] += 1
            self.rejected.write(_rejection(outcome))
            return
        offset = manifest.tell()
        manifest.write(outcome.line.encode(errors="replace"))  # JSON corpora can hold lone surrogates
        _keep(outcome, result, offset)


def _batched(utterances: Iterator[Utterance], size: int) -> Iterator[list[Utterance]]:
    while chunk := list(itertools.islice(utterances, size)):
        yield chunk


def _keep(outcome: Outcome, result: SplitResult, offset: int) -> None:
    """Count an utterance whose manifest line begins at ``offset``, and add its numbers to the columns."""
    assert outcome.facts is not None
    result.kept += 1
    result.reused += outcome.new is None
    result.repairs.update(outcome.repairs)
    result.columns["offset"].append(offset)
    for name in ("syllables", "jamo", "text_digest", "audio_digest"):
        result.columns[name].append(getattr(outcome, name))
    for name in ("samples", "peak", "clipped", "dc", "rms_db", "silent", "correlation"):
        result.columns[name].append(getattr(outcome.facts, name))


def _rejection(outcome: Outcome) -> str:
    utterance = outcome.utterance
    entry = {
        "split": utterance.split,
        "id": utterance.id,
        "where": utterance.where,
        "audio": readable(str(utterance.source)),
        "reason": outcome.reason,
        "text": utterance.text[:MOST_TEXT_SHOWN],
    }
    return json.dumps(entry, ensure_ascii=False).encode(errors="replace").decode() + "\n"


def _progress(corpus: Corpus, split: str) -> Any:
    from tqdm import tqdm

    return tqdm(total=corpus.count(split), desc=split, unit="utt", mininterval=0.5)
