"""A corpus into single FLAC files, one an utterance, with a record of those that are whole."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ko_asr.corpora.base import Utterance
from ko_asr.corpora.names import LONGEST_NAME, shortened
from ko_asr.data.convert import ChunkResult, Task, process
from ko_asr.data.state import AudioRecord, State
from ko_asr.data.workers import OrderedMap
from ko_asr.text.normalizer import Normalizer

CHUNK = 64  # utterances a task: about 8 MB of samples at most, and little handing over


@dataclass(frozen=True, slots=True)
class FlacFiles:
    """One FLAC file an utterance under ``root``/audio, written once, recorded afterwards."""

    root: Path
    effort: ClassVar[float] = 0.625

    def name(self, identifier: str) -> str:
        """Return the path relative to the manifests; what is too long for a disk ends in a hash."""
        folder, _, name = identifier.rpartition("/")
        folders = [f"{shortened(part, LONGEST_NAME)}/" for part in folder.split("/") if part]
        return f"audio/{''.join(folders)}{shortened(name, LONGEST_NAME - len('.flac'))}.flac"

    def holds(self, record: AudioRecord) -> bool:
        """Tell whether the recorded file is still there, whole."""
        try:
            return (self.root / self.name(record.id)).stat().st_size == record.size
        except OSError:
            return False

    def write(self, identifier: str, flac: bytes) -> None:
        """Write one FLAC file under its own name: only a record makes it count. Raises OSError."""
        path = self.root / self.name(identifier)
        try:
            try:
                path.write_bytes(flac)
            except FileNotFoundError:  # once a folder of 1,000 files: cheaper than asking before each
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(flac)
        except OSError as error:
            error.filename = error.filename or str(path)  # a write that fails names no file, an open does
            raise


@dataclass
class FileConverter:
    """Converter of a split into `FlacFiles`; ``state`` remembers which of them are whole."""

    run: OrderedMap
    normalizer: Normalizer
    files: FlacFiles
    state: State
    chunk_size: int = CHUNK

    def convert(self, chunks: Iterable[Sequence[Utterance]]) -> Iterator[ChunkResult]:
        """Yield the result of each chunk, in order, once its files are recorded."""
        for result in self.run(process, map(self._task, chunks)):
            self.state.add(outcome.new for outcome in result.outcomes if outcome.new)
            yield result
        self.state.commit()

    def _task(self, chunk: Sequence[Utterance]) -> Task:
        known = self.state.find([utterance.id for utterance in chunk])
        return Task(chunk, known, self.normalizer, self.files)
