"""One chunk of utterances to text, FLAC and facts: the work of one worker process.

Functions here run in worker processes; they take and return plain picklable values.
"""

import dataclasses
import hashlib
import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from ko_asr.audio.corpus_audio import (
    AudioFacts,
    flac_bytes,
    flac_digest,
    measure,
    read_audio,
    signature,
)
from ko_asr.audio.problem import AudioProblem
from ko_asr.corpora.base import Utterance
from ko_asr.corpora.layout import text_of
from ko_asr.corpora.names import find_elsewhere
from ko_asr.data.manifest import format_entry
from ko_asr.data.state import AudioRecord
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.text.normalizer import Normalizer

# Some of AI Hub's 명령어 recordings end at 2.6 s whatever was said; what is only rounded differs by less.
LABEL_SLACK = 0.25
SEGMENT_SLACK = 0.5  # labels of dialogues round their times; the readers of containers allow as much
# What a manifest line says of its audio, and what NeMo's loaders would take for that. A corpus' own field of
# such a name is kept under another: what was measured stands.
MEASURED = frozenset(
    (
        "audio_filepath",
        "duration",
        "text",
        "written",
        "spoken",
        "offset",
        "sampling_rate",
        "sample_rate",
        "shard_id",
        "_skipme",
    )
)


class Store(Protocol):
    """Destination of one chunk's audio: FLAC files (`file_store`) or a shard (`shard_store`)."""

    effort: ClassVar[float]  # of the encoder, see `corpus_audio.flac_bytes`

    def name(self, identifier: str) -> str:
        """Return the audio_filepath of the manifest."""

    def holds(self, record: AudioRecord) -> bool:
        """Tell whether the recorded audio is still there, whole."""

    def write(self, identifier: str, flac: bytes) -> None:
        """Write one utterance's FLAC. Raises OSError."""


_UNWRITABLE = re.compile("[\x00-\x1f\ud800-\udfff]")  # control characters, bytes that were no UTF-8


class Task(NamedTuple):
    """Chunk of utterances with what is known of their audio from earlier runs."""

    utterances: Sequence[Utterance]
    known: dict[str, AudioRecord]
    normalizer: Normalizer
    store: Store


class Outcome(NamedTuple):
    """Result of one utterance: a manifest line, or the reason why it was rejected."""

    utterance: Utterance
    reason: str = ""
    text: str = ""
    line: str = ""
    facts: AudioFacts | None = None
    repairs: tuple[str, ...] = ()
    new: AudioRecord | None = None
    syllables: int = 0
    jamo: int = 0
    text_digest: int = 0
    audio_digest: int = 0


class ChunkResult(NamedTuple):
    """Outcomes in the task's order, and counts over the chunk."""

    outcomes: list[Outcome]
    rules: Counter[str]
    characters: Counter[str]


def process(task: Task) -> ChunkResult:
    """Convert one chunk. Raises OSError when output cannot be written."""
    rules: Counter[str] = Counter()
    outcomes = [_process_one(utterance, task, rules) for utterance in task.utterances]
    return ChunkResult(
        outcomes, rules, Counter("".join(outcome.text for outcome in outcomes if outcome.line))
    )


def _process_one(utterance: Utterance, task: Task, rules: Counter[str]) -> Outcome:
    utterance = located(utterance)
    if utterance.problem or (problem := _bad_id(utterance.id)):
        return Outcome(utterance, utterance.problem or problem)
    cleaned = task.normalizer.clean(utterance.text)
    rules.update(cleaned.fired)
    if cleaned.reason:
        return Outcome(utterance, cleaned.reason)
    record = task.known.get(utterance.id)
    new = None
    try:
        if record is None or record.signature != signature(utterance.source) or not task.store.holds(record):
            record = new = _convert(utterance, task.store)
    except AudioProblem as problem:
        return Outcome(utterance, str(problem), cleaned.text)
    syllables, jamo = count_jamo(cleaned.text)
    texts = {"text": cleaned.text} | _other_sides(task.normalizer, utterance.text, cleaned.text)
    return Outcome(
        utterance,
        text=cleaned.text,
        line=format_entry(_entry(utterance, texts, record.facts, task.store)),
        facts=record.facts,
        repairs=record.repairs,
        new=new,
        syllables=syllables,
        jamo=jamo,
        text_digest=_digest(cleaned.text),
        audio_digest=record.digest,
    )


def located(utterance: Utterance) -> Utterance:
    """Return the utterance with its audio's path as the disk spells it, or with the problem it has.

    A pipe or a device is never opened: it would wait for ever.
    """
    text, problem = text_of(utterance.text)
    if problem and not utterance.problem:
        return dataclasses.replace(utterance, text=text, problem=problem)
    path = utterance.source.path
    if utterance.problem or not path:
        return utterance
    try:
        mode = os.stat(path).st_mode
    except OSError:
        found = find_elsewhere(path)
        return utterance if found is None else _moved(utterance, found)
    except ValueError:  # a zero byte or half a character in the name
        return dataclasses.replace(utterance, problem="missing file")
    if stat.S_ISREG(mode):
        return utterance
    kind = "unreadable file (Is a directory)" if stat.S_ISDIR(mode) else "not a regular file"
    return dataclasses.replace(utterance, problem=kind)


def _moved(utterance: Utterance, path: str) -> Utterance:
    return dataclasses.replace(utterance, source=dataclasses.replace(utterance.source, path=path))


def _bad_id(identifier: str) -> str:
    parts = PurePosixPath(identifier).parts
    unsafe = not parts or identifier.startswith("/") or ".." in parts or _UNWRITABLE.search(identifier)
    return "unsafe path" if unsafe else ""


def _convert(utterance: Utterance, store: Store) -> AudioRecord:
    mark = signature(utterance.source)  # before reading: a file that changes meanwhile is converted again
    samples, repairs = read_audio(utterance.source)
    facts = measure(samples)
    missing = utterance.labelled_seconds - facts.samples / SAMPLE_RATE
    if missing > LABEL_SLACK:
        raise AudioProblem(f"audio cut off ({missing:.2f} s less than its label says)")
    _check_segment(utterance, facts)
    flac = flac_bytes(samples, store.effort)
    store.write(utterance.id, flac)
    return AudioRecord(utterance.id, mark, len(flac), repairs, flac_digest(flac), facts)


def _check_segment(utterance: Utterance, facts: AudioFacts) -> None:
    """Raise AudioProblem for a segment that ends after its file: its times are wrong, milliseconds say."""
    source, seconds = utterance.source, facts.samples / SAMPLE_RATE
    missing = 0.0 if source.end is None else source.end - source.start - seconds
    if missing > SEGMENT_SLACK:
        raise AudioProblem(f"segment outside the audio ({missing:.1f} s beyond its end)")


def _other_sides(normalizer: Normalizer, line: str, text: str) -> dict[str, str]:
    """The sides of a dual transcription that ``text`` is not: ``written``, ``spoken`` or both."""
    return {name: side for name, side in normalizer.sides(line).items() if side != text}


def _entry(utterance: Utterance, texts: dict[str, str], facts: AudioFacts, store: Store) -> dict:
    return {
        "audio_filepath": store.name(utterance.id),
        "duration": round(facts.samples / SAMPLE_RATE, 6),
        **texts,
        "sampling_rate": SAMPLE_RATE,
        **{f"table_{key}" if key in MEASURED else key: value for key, value in utterance.fields.items()},
    }


def count_jamo(text: str) -> tuple[int, int]:
    """Count (syllables, jamo) of the Hangul syllables in ``text``; a syllable has two jamo or three.

    >>> count_jamo("값 있어 OK")
    (3, 8)
    """
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4").astype(np.int32) - 0xAC00
    syllables = codes[(codes >= 0) & (codes < 11172)]
    return len(syllables), 2 * len(syllables) + int(np.count_nonzero(syllables % 28))


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
