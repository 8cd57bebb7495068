"""Speech of one's own: a folder of audio with texts beside it, or a table.

Any of these, found in this order::

    --table FILE, or metadata.tsv, metadata.csv in the folder   with a header: audio, text and others
    metadata.csv as LJSpeech has it                             id|text, no header, audio in wavs/
    x.wav with x.txt beside it, at any depth

A table's columns ``split``, ``start`` and ``end`` (seconds) are understood; all others go to the manifest.
Splits are the column's, else folders named train, dev (valid) and test (eval), else a share for dev is drawn.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ko_asr.audio.source import AudioSource
from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.layout import (
    Listed,
    decode,
    existing_folder,
    place,
    read_file,
    read_lines,
    segment_of,
    text_fields,
    text_of,
    walk,
)
from ko_asr.corpora.names import AUDIO_EXTENSIONS, FINDER, without_audio_extension
from ko_asr.corpora.splits import KNOWN, in_order, refused, split_named
from ko_asr.corpora.tables import Row, read_csv, read_table
from ko_asr.errors import UserError
from ko_asr.text.normalizer import PLAIN

_AUDIO = ("audio", "audio_filepath", "path", "file", "file_name", "filename", "wav", "wav_filename")
_TEXT = ("text", "sentence", "transcript", "transcription", "label")
_HEADERLESS = {".pcm", ".raw"}


def _split_of(where: str) -> str:
    """Return the split that the first folder of the path to say one is named for, "" for none."""
    for part in PurePosixPath(where).parts[:-1]:
        try:
            if split := split_named(part):
                return split
        except ValueError as error:
            raise UserError(f"{where}: the folder {error}: rename it ({KNOWN})") from error
    return ""


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
        return {record.split for record in self._records()} - {""}

    def splits(self) -> list[str]:
        """Return the splits that are named, or train and dev."""
        if self._named_splits:
            return in_order(self._named_splits)
        return ["train", "dev"] if self._dev_share > 0 else ["train"]

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield every record of ``split``; where none is named, dev's are drawn by the hash of their ids.

        A record that names no split though others do is rejected, in the first split.
        """
        first = self.splits()[0]
        for record in self._records():
            if self._named_splits and not record.split:
                problem = record.problem or "no split named, though others name theirs"
                record = dataclasses.replace(record, split=first, problem=problem)
            if (record.split or self._drawn(record.id)) == split:
                yield dataclasses.replace(record, split=split)

    def _drawn(self, key: str) -> str:
        draw = int.from_bytes(hashlib.sha256(key.encode(errors="replace")).digest()[:4], "big") / 2**32
        return "dev" if draw < self._dev_share else "train"

    def _records(self) -> Iterator[Utterance]:
        if self._table:
            yield from self._from_table(self._table)
            return
        for listed in walk(self.root):
            yield from self._from_listing(listed)

    def _from_listing(self, listed: Listed) -> Iterator[Utterance]:
        if listed.problem:
            where = place(listed.folder, self.root)
            yield Utterance(where, _split_of(f"{where}/"), "", where, problem=listed.problem)
        for name in listed.files:
            if name.lower().endswith(AUDIO_EXTENSIONS) and not name.startswith("._"):
                yield self._beside(listed.folder / name)

    def _beside(self, audio: Path) -> Utterance:
        where = place(audio, self.root)
        text, problem = _text_beside(audio)
        source = AudioSource(path=str(audio), headerless=audio.suffix.lower() in _HEADERLESS)
        return Utterance(without_audio_extension(where), _split_of(where), text, where, source, problem)

    def _rows(self, table: Path) -> Iterator[Row]:
        first = next(read_lines(table), (1, ""))[1]
        names = {cell.strip(' "').lower() for cell in re.split("[|,\t]", first)}
        if "|" in first and not names & set(_AUDIO):
            return read_table(table, ("audio", "text", "normalised"), "|")
        for column, spellings in (("audio", _AUDIO), ("text", _TEXT)):
            if not names & set(spellings):
                raise UserError(f"{table} has no {column} column: name the columns audio and text")
        if table.suffix.lower() == ".csv" and "\t" not in first and "|" not in first:
            return read_csv(table)
        return read_table(table, delimiter="|" if "|" in first else "\t")

    def _from_table(self, table: Path) -> Iterator[Utterance]:
        for row in self._rows(table):
            yield self._from_row(table, row)

    def _from_row(self, table: Path, row: Row) -> Utterance:
        where = f"{table.name}:{row.number}"
        cells = {key.strip().lower(): value.strip() for key, value in row.cells.items() if key}
        audio, no_audio = text_of(_first(cells, _AUDIO), "audio")
        text, no_text = text_of(_first(cells, _TEXT))
        split = self._split_named(cells.pop("split", ""), f"{table}:{row.number}")
        start, end = cells.pop("start", ""), cells.pop("end", "")
        first, last, no_segment = segment_of(start, end)
        problem = row.problem or no_audio or ("" if audio else "no audio") or no_text or no_segment
        if problem:
            return Utterance(f"{table.name}/{row.number}", split, text, where, problem=problem)
        path = self._resolve(audio)
        headerless = path.suffix.lower() in _HEADERLESS
        source = AudioSource(str(path), headerless=headerless, start=first, end=last)
        key = _key(audio) + (f"_{round(first * 1000):08d}" if start or end else "")
        cells.pop("normalised", None)
        return Utterance(key, split, text, where, source, fields=text_fields(cells.items()))

    def _split_named(self, name: str, where: str) -> str:
        try:
            split = split_named(name)
        except ValueError as error:
            raise refused(name, where) from error
        if name and not split:
            raise refused(name, where)
        return split

    def _resolve(self, audio: str) -> Path:
        if "\\" in audio and not (self.root / audio).is_file():
            audio = audio.replace("\\", "/")
        path = self.root / audio
        if path.suffix.lower() in AUDIO_EXTENSIONS:
            return path  # the workers find it where it is spelt otherwise
        folders = (self.root, self.root / "wavs")
        return next((f for folder in folders if (f := FINDER.find(folder / audio, AUDIO_EXTENSIONS))), path)


def _first(cells: dict[str, str], names: tuple[str, ...]) -> str | None:
    """Take the first of the columns ``names`` that there is out of ``cells``."""
    return next((cells.pop(name) for name in names if name in cells), None)


def _key(audio: str) -> str:
    """Return the id of a table's audio: its path without the extension, and with no way out of the folder."""
    parts = without_audio_extension(audio.replace("\\", "/")).split("/")
    return "/".join("_" if part == ".." else part for part in parts).lstrip("/")


def _text_beside(audio: Path) -> tuple[str, str]:
    """Return (text, problem) of the .txt beside an audio file, spelt as the audio or nearly so."""
    file = FINDER.find(audio.with_suffix(""), (".txt",))
    if file is None:
        return "", "no text beside the audio"
    try:
        return text_of(decode(read_file(file)).strip())
    except UnicodeDecodeError:
        return "", "text is neither UTF-8 nor CP949"
    except OSError as error:
        return "", f"unreadable text ({error.strerror})"
