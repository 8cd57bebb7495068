"""Zeroth-Korean: 51.6 h of read speech, 22,263 utterances of 105 speakers, and a test set of 457 of 10.

Licence CC BY 4.0, https://www.openslr.org/40. Layout::

    AUDIO_INFO                                     SPEAKERID|NAME|SEX|SCRIPTID|DATASET
    train_data_01/<script>/<reader>/<reader>_<script>_<number>.flac
    train_data_01/<script>/<reader>/<reader>_<script>.trans.txt     "<utterance> <text>"
    test_data_01/...
"""

from collections.abc import Iterator
from pathlib import Path

from ko_asr.audio.source import AudioSource
from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.layout import existing_folder, first_folder_with, place, read_lines, text_fields
from ko_asr.errors import UserError


class Zeroth(Corpus):
    """Zeroth-Korean as OpenSLR delivers it."""

    name, title = "zeroth", "Zeroth-Korean"
    licence, url = "CC BY 4.0", "https://www.openslr.org/40"
    published = {"train": 22_263, "test": 457}  # noqa: RUF012 - never changed

    def __init__(self, root: str | Path) -> None:
        self.root = first_folder_with(existing_folder(root), ["train_data_*", "test_data_*"])
        self._genders = self._read_genders()

    def _read_genders(self) -> dict[str, str]:
        table = self.root / "AUDIO_INFO"
        if not table.is_file():
            return {}
        rows = (line.split("|") for _, line in read_lines(table))
        return {row[0].strip(): row[2].strip().lower()[:1] for row in rows if len(row) > 2}

    def splits(self) -> list[str]:
        """Return train and test, as far as they are there."""
        return [split for split in ("train", "test") if next(self.root.glob(f"{split}_data_*"), None)]

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield every line of every transcript file."""
        for transcript in sorted(self.root.glob(f"{split}_data_*/*/*/*.trans.txt")):
            try:
                yield from self._read_by(transcript.parent.name, transcript, split)
            except (UserError, OSError) as error:
                where = place(transcript, self.root)
                yield Utterance(where, split, "", where, problem=f"unreadable transcript ({error})")

    def _read_by(self, reader: str, transcript: Path, split: str) -> Iterator[Utterance]:
        fields = text_fields([("speaker", reader), ("gender", self._genders.get(reader))])
        for number, line in read_lines(transcript):
            key, _, text = line.partition(" ")
            yield Utterance(
                id=f"{place(transcript.parent, self.root)}/{key}",
                split=split,
                text=text,
                where=f"{place(transcript, self.root)}:{number}",
                source=AudioSource(path=str(transcript.parent / f"{key}.flac")),
                fields=fields,
            )
