"""Common Voice Korean: read speech of volunteers, CC0, https://commonvoice.mozilla.org. Layout::

ko/train.tsv ko/dev.tsv ko/test.tsv     client_id, path, sentence, up_votes, down_votes, age, gender, accents
ko/clips/common_voice_ko_12345.mp3
"""

from collections.abc import Iterator
from pathlib import Path

from ko_asr.audio.source import AudioSource
from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.layout import existing_folder, first_folder_with, text_fields
from ko_asr.corpora.tables import read_table
from ko_asr.errors import UserError


class CommonVoice(Corpus):
    """Common Voice ko; the splits are the release's own train, dev and test."""

    name, title = "commonvoice", "Common Voice Korean"
    licence, url = "CC0 1.0", "https://commonvoice.mozilla.org"

    def __init__(self, root: str | Path) -> None:
        self.root = first_folder_with(existing_folder(root), ["ko/train.tsv", "train.tsv", "validated.tsv"])
        if (self.root / "ko" / "train.tsv").is_file():
            self.root = self.root / "ko"
        if not self.splits():
            raise UserError(
                f"{self.root} has validated.tsv but neither train.tsv, dev.tsv nor test.tsv, which part it: "
                f"download the release again, or prepare all of it with prepare_folder.py --corpus "
                f"{self.root / 'clips'} --table {self.root / 'validated.tsv'}"
            )

    def splits(self) -> list[str]:
        """Return train, dev and test, as far as they are there."""
        return [split for split in ("train", "dev", "test") if (self.root / f"{split}.tsv").is_file()]

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield every row of the split's table."""
        for number, row, problem in read_table(self.root / f"{split}.tsv"):
            clip = row.get("path", "")
            # releases before 2019 leave the extension out
            name = clip if clip.lower().endswith(".mp3") or not clip else f"{clip}.mp3"
            yield Utterance(
                id=Path(clip).stem or f"{split}/{number}",
                split=split,
                text=row.get("sentence", ""),
                where=f"{split}.tsv:{number}",
                source=AudioSource(path=str(self.root / "clips" / name)),
                problem=problem or ("" if clip and "sentence" in row else "row with too few columns"),
                # client_id is a hash of 128 letters; twelve identify a release's speakers
                fields=text_fields(
                    [
                        ("speaker", row.get("client_id", "")[:12]),
                        ("gender", row.get("gender")),
                        ("age", row.get("age")),
                        ("accent", row.get("accents") or row.get("accent")),
                    ]
                ),
            )
