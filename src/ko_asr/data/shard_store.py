"""A corpus straight into NeMo tarred shards: no file an utterance is ever made.

A disk takes some hundred new files a second whatever is in them; large tars it takes at its full speed. Each
chunk of a preparation, some hundred records in the corpus's order, becomes one shard::

    OUT/shards/SPLIT/audio_K.tar  manifest_K.json  input_cfg.yaml       OUT/SPLIT.jsonl (all of them)

A shard counts as done when its note (a key of its sources, and what was measured) is written, which happens
last; so a run after a kill repeats only what was in flight, and a changed source rewrites its own shard.
"""

import hashlib
import io
import itertools
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from ko_asr.audio.corpus_audio import AudioFacts, signature
from ko_asr.corpora.base import Utterance
from ko_asr.data.convert import ChunkResult, Outcome, Task, located, process
from ko_asr.data.manifest import format_entry
from ko_asr.data.state import VERSION, AudioRecord
from ko_asr.data.workers import OrderedMap
from ko_asr.files import atomic_write
from ko_asr.text.normalizer import Normalizer


@dataclass
class _Shard:
    """Store of one task: it names members, and holds them all (done before) or writes them all."""

    tar: tarfile.TarFile | None
    effort: ClassVar[float] = 0.0  # encoding is what takes the time here

    def name(self, identifier: str) -> str:
        # NeMo takes "-sub1" at the end of a name for a segment's number
        return identifier.replace("/", "__").replace("-sub", "_sub") + ".flac"

    def holds(self, record: AudioRecord) -> bool:
        return self.tar is None

    def write(self, identifier: str, flac: bytes) -> None:
        assert self.tar is not None, "a finished shard lacks an utterance"
        member = tarfile.TarInfo(self.name(identifier))
        member.size = len(flac)
        self.tar.addfile(member, io.BytesIO(flac))


class ShardTask(NamedTuple):
    """A chunk of utterances and the shard that it becomes."""

    utterances: Sequence[Utterance]
    normalizer: Normalizer
    folder: Path
    number: int


def process_shard(shard: ShardTask) -> ChunkResult:
    """Convert one chunk into one shard. Raises OSError when it cannot be written."""
    shard = shard._replace(utterances=[located(utterance) for utterance in shard.utterances])
    number, note = shard.number, shard.folder / "keys" / f"{shard.number}.json"
    key = _key(shard)
    known = _records_of(note, key)
    with _opened(shard.folder / f"audio_{number}.tar" if known is None else None) as tar:
        result = process(Task(shard.utterances, known or {}, shard.normalizer, _Shard(tar)))
    outcomes = [_with_shard_id(outcome, number) for outcome in result.outcomes]
    with atomic_write(shard.folder / f"manifest_{number}.json") as stream:
        stream.write("".join(outcome.line for outcome in outcomes))
    if known is None:
        with atomic_write(note) as stream:
            json.dump({"key": key, "records": [outcome.new for outcome in outcomes if outcome.new]}, stream)
    return result._replace(outcomes=outcomes)


def _key(shard: ShardTask) -> str:
    """Hash the sources of a shard, and which of them the text rules keep.

    So other text rules rewrite a shard's manifest, and its audio only where they keep other utterances.
    """
    digest = hashlib.sha256(b"%d" % VERSION)
    for utterance in shard.utterances:
        kept = not utterance.problem and not shard.normalizer.clean(utterance.text).reason
        digest.update(f"{utterance.id}\0{signature(utterance.source)}\0{kept}\n".encode())
    return digest.hexdigest()


def _records_of(note: Path, key: str) -> dict[str, AudioRecord] | None:
    """Return the records of a finished shard with this key; None when it is to be written."""
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if noted["key"] != key:
        return None
    rows = ((*row[:3], tuple(row[3]), row[4], AudioFacts(*row[5])) for row in noted["records"])
    return {row[0]: AudioRecord(*row) for row in rows}


@contextmanager
def _opened(path: Path | None) -> Iterator[tarfile.TarFile | None]:
    if path is None:
        yield None
        return
    with (
        atomic_write(path, "wb") as target,
        tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        yield archive


def _with_shard_id(outcome: Outcome, number: int) -> Outcome:
    if not outcome.line:
        return outcome
    return outcome._replace(line=format_entry(json.loads(outcome.line) | {"shard_id": number}))


@dataclass
class ShardConverter:
    """Converter of a split into the shards of ``folder``, each of ``chunk_size`` utterances."""

    run: OrderedMap
    normalizer: Normalizer
    folder: Path
    chunk_size: int

    def convert(self, chunks: Iterable[Sequence[Utterance]]) -> Iterator[ChunkResult]:
        """Yield the result of each chunk, in order, once its shard is whole."""
        shards = 0
        for result in self.run(process_shard, itertools.starmap(self._task, enumerate(chunks))):
            shards += 1
            yield result
        _finish(self.folder, shards)

    def _task(self, number: int, chunk: Sequence[Utterance]) -> ShardTask:
        return ShardTask(chunk, self.normalizer, self.folder, number)


def _finish(folder: Path, shards: int) -> None:
    """Remove what an earlier, longer run left, and write the input_cfg.yaml that training reads."""
    for path in [*folder.glob("audio_*.tar"), *folder.glob("manifest_*.json"), *folder.glob("keys/*.json")]:
        if int(path.stem.split("_")[-1]) >= shards:
            path.unlink()
    absolute, last = folder.absolute(), shards - 1
    with atomic_write(folder / "input_cfg.yaml") as stream:
        stream.write(
            f"- type: nemo_tarred\n  manifest_filepath: {absolute}/manifest__OP_0..{last}_CL_.json\n"
            f"  tarred_audio_filepaths: {absolute}/audio__OP_0..{last}_CL_.tar\n"
        )
