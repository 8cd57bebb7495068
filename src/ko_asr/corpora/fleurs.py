"""FLEURS ko_kr: read sentences of Wikipedia, about 10 h, CC BY 4.0 (Conneau et al., 2022). Layout::

    ko_kr/train.tsv dev.tsv test.tsv   id, file, raw transcription, transcription, characters, samples, gender
    ko_kr/audio/train/*.wav ...          (or ko_kr/train/*.wav)

The tables have no header. The raw transcription is taken: the other one lost its digits' marks and its case.
"""

from collections.abc import Iterator
from pathlib import Path

from ko_asr.audio.source import AudioSource
from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.layout import existing_folder, first_folder_with, text_fields
from ko_asr.corpora.names import without_audio_extension
from ko_asr.corpora.tables import read_table

_COLUMNS = ("id", "file", "raw", "transcription", "characters", "samples", "gender")


class Fleurs(Corpus):
    """FLEURS ko_kr with its own train, dev and test."""

    name, title = "fleurs", "FLEURS ko_kr"
    licence, url = "CC BY 4.0", "https://arxiv.org/abs/2205.12446"

    def __init__(self, root: str | Path) -> None:
        self.root = first_folder_with(existing_folder(root), ["ko_kr/train.tsv", "train.tsv", "test.tsv"])
        if (self.root / "ko_kr").is_dir():
            self.root = self.root / "ko_kr"

    def splits(self) -> list[str]:
        """Return train, dev and test, as far as they are there."""
        return [split for split in ("train", "dev", "test") if (self.root / f"{split}.tsv").is_file()]

    def _audio_folder(self, split: str) -> Path:
        names = (f"audio/{split}", split, "audio")
        return next((folder for name in names if (folder := self.root / name).is_dir()), self.root)

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield every row of the split's table; a sentence is read by up to three people."""
        folder = self._audio_folder(split)
        for number, row, problem in read_table(self.root / f"{split}.tsv", _COLUMNS):
            file = row.get("file", "")
            yield Utterance(
                id=f"{split}/{without_audio_extension(file.rpartition('/')[2]) or number}",
                split=split,
                text=row.get("raw", ""),
                where=f"{split}.tsv:{number}",
                source=AudioSource(path=str(folder / file)),
                problem=problem or ("" if file and "raw" in row else "row with too few columns"),
                fields=text_fields([("gender", row.get("gender", "").lower()), ("sentence", row.get("id"))]),
            )
