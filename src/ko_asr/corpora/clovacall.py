"""ClovaCall: restaurant calls, 59,662 training and 1,084 test utterances (Ha et al., Interspeech 2020).

Research licence of NAVER Corp., no redistribution, https://github.com/clovaai/ClovaCall. Layout::

    train_ClovaCall.json  test_ClovaCall.json   [{"wav": "42_0603.wav", "text": "...", "speaker_id": "03319"}]
    wavs_train/ wavs_test/, or raw/ and clean/ (silence cut off at 25 dB), or all files beside the JSON
"""

from collections.abc import Iterator
from pathlib import Path

from ko_asr.audio.source import AudioSource
from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.layout import existing_folder, first_folder_with, read_json, text_fields, text_of
from ko_asr.corpora.names import without_audio_extension
from ko_asr.errors import UserError


class ClovaCall(Corpus):
    """ClovaCall; ``version`` ("raw" or "clean") decides where both are there."""

    name, title = "clovacall", "ClovaCall"
    licence, url = "NAVER Corp., non-commercial research", "https://github.com/clovaai/ClovaCall"
    published = {"train": 59_662, "test": 1_084}  # noqa: RUF012 - never changed

    def __init__(self, root: str | Path, version: str = "raw") -> None:
        self.root = first_folder_with(existing_folder(root), ["train_ClovaCall.json", "test_ClovaCall.json"])
        self._version = version

    def splits(self) -> list[str]:
        """Return train and test, as far as they are there."""
        return [split for split in ("train", "test") if (self.root / f"{split}_ClovaCall.json").is_file()]

    def _audio_folder(self, split: str) -> Path:
        other = "clean" if self._version == "raw" else "raw"
        names = (
            f"wavs_{split}",
            f"{self._version}/wavs_{split}",
            self._version,
            f"{other}/wavs_{split}",
            other,
            ".",
        )
        return next(folder for name in names if (folder := self.root / name).is_dir())

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield every entry of the split's JSON list."""
        table = self.root / f"{split}_ClovaCall.json"
        try:
            entries = read_json(table)
        except ValueError as error:
            raise UserError(
                f"{table} is not readable as JSON ({error}): download the corpus again"
            ) from error
        if not isinstance(entries, list):
            raise UserError(f"{table} is no list of utterances: download the corpus again")
        folder = self._audio_folder(split)
        for number, entry in enumerate(entries):
            entry = entry if isinstance(entry, dict) else {}
            wav, no_wav = text_of(entry.get("wav") or None, "wav in the label")
            text, no_text = text_of(entry.get("text"))
            yield Utterance(
                id=f"{split}/{without_audio_extension(wav.rpartition('/')[2]) or number}",
                split=split,
                text=text,
                where=f"{table.name}[{number}]",
                source=AudioSource(path=str(folder / wav)),
                problem=no_wav or no_text,
                fields=text_fields([("speaker", entry.get("speaker_id"))]),
            )
