"""Speech of one's own: a folder of audio with texts beside it, or a table.

Any of these, found in this order::

    --table FILE, or metadata.tsv, metadata.csv in the folder   with a header: audio, text and others
    metadata.csv as LJSpeech has it                             id|text, no header, audio in wavs/
    x.wav with x.txt beside it, at any depth

A table's columns ``split``, ``start`` and ``end`` (seconds) are understood; all others go to the manifest.
Splits are the column's, else folders named train, dev (valid) and test (eval), else a share for dev is drawn.
"""

import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from ko_asr.audio.source import AudioSource
from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.layout import AUDIO_EXTENSIONS, decode, existing_folder, read_lines, read_table
from ko_asr.errors import UserError
from ko_asr.text.normalizer import PLAIN

_AUDIO = ("audio", "audio_filepath", "path", "file", "file_name", "filename", "wav", "wav_filename")
_TEXT = ("text", "sentence", "transcript", "transcription", "label")
_NAMES = {"train": ("training",), "dev": ("valid", "validation", "val"), "test": ("eval", "evaluation")}
_SPLITS = {name: split for split, others in _NAMES.items() for name in (split, *others)}
_HEADERLESS = {".pcm", ".raw"}


def _split_of(where: Path) -> str:
    """Return the split that a folder of the path is named for, "" for none."""
    return next((_SPLITS[part.lower()] for part in where.parts[:-1] if part.lower() in _SPLITS), "")


class Folder(Corpus):
    """A folder of recordings; ``dev_share`` is drawn for dev where nothing names the splits.

    ``style`` is the convention of the texts, one of `known_styles`.
    """

    licence, url = "your own", ""

    def __init__(
        self,
        root: str | Path,
        table: str | Path | None = None,
        dev_share: float = 0.05,
        style: str = PLAIN,
    ) -> None:
        self.root, self.style = existing_folder(root), style
        self.name = self.title = self.root.resolve().name
        self._table = self._find_table(table)
        self._dev_share = dev_share
        self._named_splits = self._find_splits()
        if not self._named_splits and next(self._records(), None) is None:
            where = f"in {self._table}" if self._table else f"below {self.root}"
            raise UserError(f"no utterance {where}: give audio files with .txt beside them, or --table")

    def _find_table(self, given: str | Path | None) -> Path | None:
        if given is not None:
            if not Path(given).is_file():
                raise UserError(f"no table at {given}")
            return Path(given)
        names = ("metadata.tsv", "metadata.csv")
        return next((table for name in names if (table := self.root / name).is_file()), None)

    def _find_splits(self) -> set[str]:
        if self._table:
            return {record.split for record in self._from_table(self._table)} - {""}
        return {_split_of(audio.relative_to(self.root)) for audio in self._audio_files()} - {""}

    def splits(self) -> list[str]:
        """Return the splits that are named, or train and dev."""
        if self._named_splits:
            return [split for split in ("train", "dev", "test") if split in self._named_splits]
        return ["train", "dev"] if self._dev_share > 0 else ["train"]

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield every record of ``split``; one without a split is train's, or dev's by the hash of its id."""
        for record in self._records():
            if (record.split or self._drawn(record.id)) == split:
                yield Utterance(
                    record.id, split, record.text, record.where, record.source, record.problem, record.fields
                )

    def _drawn(self, key: str) -> str:
        if self._named_splits:
            return "train"
        draw = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32
        return "dev" if draw < self._dev_share else "train"

    def _records(self) -> Iterator[Utterance]:
        yield from self._from_table(self._table) if self._table else map(self._beside, self._audio_files())

    def _audio_files(self) -> Iterator[Path]:
        for folder, subfolders, files in os.walk(self.root):
            subfolders.sort()
            for name in sorted(files):
                if name.lower().endswith(AUDIO_EXTENSIONS) and not name.startswith("._"):
                    yield Path(folder) / name

    def _beside(self, audio: Path) -> Utterance:
        where = audio.relative_to(self.root)
        text, problem = "", ""
        try:
            text = decode(audio.with_suffix(".txt").read_bytes()).strip()
        except FileNotFoundError:
            problem = "no text beside the audio"
        except UnicodeDecodeError:
            problem = "text is neither UTF-8 nor CP949"
        source = AudioSource(path=str(audio), headerless=audio.suffix.lower() in _HEADERLESS)
        return Utterance(str(where.with_suffix("")), _split_of(where), text, str(where), source, problem)

    def _rows(self, table: Path) -> Iterator[tuple[int, dict]]:
        first = next(read_lines(table), (1, ""))[1]
        names = {cell.strip().lower() for cell in first.replace("|", "\t").replace(",", "\t").split("\t")}
        if "|" in first and not names & set(_AUDIO):
            yield from read_table(table, ("audio", "text", "normalised"), "|")
        elif table.suffix.lower() == ".csv" and "\t" not in first and "|" not in first:
            reader = csv.DictReader(line for _, line in read_lines(table))
            yield from enumerate(reader, 2)
        else:
            yield from read_table(table, delimiter="|" if "|" in first else "\t")

    def _from_table(self, table: Path) -> Iterator[Utterance]:
        for number, row in self._rows(table):
            row = {key.strip().lower(): (value or "").strip() for key, value in row.items() if key}
            audio, text = (next((row.pop(k) for k in keys if k in row), None) for keys in (_AUDIO, _TEXT))
            if audio is None or text is None:
                missing = "audio" if audio is None else "text"
                raise UserError(f"{table}:{number} has no {missing} column: name the columns audio and text")
            yield self._from_row(table, number, row, audio, text)

    def _from_row(self, table: Path, number: int, row: dict[str, str], audio: str, text: str) -> Utterance:
        split, problem = _SPLITS.get(row.pop("split", "").lower(), ""), ""
        start, end = row.pop("start", ""), row.pop("end", "")
        try:
            cut = (float(start or 0), float(end) if end else None)
        except ValueError:
            cut, problem = (0.0, None), "start or end is no number"
        path = self._resolve(audio)
        source = AudioSource(
            str(path), headerless=path.suffix.lower() in _HEADERLESS, start=cut[0], end=cut[1]
        )
        segment = f"_{round(cut[0] * 1000):08d}" if start or end else ""
        key = f"{Path(audio).with_suffix('')}{segment}".lstrip("/").replace("..", "_")
        row.pop("normalised", None)
        fields: dict[str, str | int | float] = {name: value for name, value in row.items() if value}
        return Utterance(key, split, text, f"{table.name}:{number}", source, problem, fields)

    def _resolve(self, audio: str) -> Path:
        path = self.root / audio
        if path.suffix.lower() in AUDIO_EXTENSIONS:
            return path
        for folder in (self.root, self.root / "wavs"):
            for extension in AUDIO_EXTENSIONS:
                if (file := folder / f"{audio}{extension}").is_file():
                    return file
        return path
