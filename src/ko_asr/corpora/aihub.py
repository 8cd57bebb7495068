"""AI Hub's JSON corpora, by what their labels hold: conversation, command and dialect (NIKL's corpora too).

AI Hub's own licence: Korean nationals, no redistribution, https://aihub.or.kr. One tree serves all::

    Training/[라벨]1.AI챗봇/.../x.json    Training/[원천]1.AI챗봇_1/.../x.wav      Validation/...
    1.Training/라벨링데이터/TL1/...        1.Training/원천데이터/TS1/...             2.Validation/...

The audio of a label is looked for beside it, in the folder that bears its name with 원천 for 라벨, and in the
audio folders whose last name is the same. Folders are indexed, not files: a corpus has millions of those.
"""

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ko_asr.audio.source import AudioSource
from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.layout import (
    existing_folder,
    number_of,
    place,
    read_json,
    segment_of,
    text_fields,
    text_of,
    walk,
)
from ko_asr.corpora.names import AUDIO_EXTENSIONS, FINDER, without_audio_extension
from ko_asr.corpora.splits import kind_named
from ko_asr.errors import UserError
from ko_asr.text.normalizer import PLAIN

_LABEL_WORDS = (("라벨링", "원천"), ("라벨", "원천"), ("TL", "TS"), ("VL", "VS"), ("label", "source"))
_HEADERLESS = {".pcm", ".raw"}
_ARCHIVE = re.compile(r"\.(zip|tar|tar\.gz|tgz)(\.part\d+)?$", re.IGNORECASE)
_EXTENSIONS = (*AUDIO_EXTENSIONS, ".wavp")  # 자유대화 writes that too; NIKL's ids have dots of their own
_UNNAMED = "no split in its folders' names, though others have one"


def split_of(path: Path) -> str:
    """Return train, dev or test by the names of a file's folders, "" when they name none.

    AI Hub's own names come first, the innermost of them; then what else names a split, in Korean as well.

    >>> [split_of(Path(p)) for p in ("1.Training/TL1/a.json", "Validation/[라벨]x/a.json", "x/VL_01/a.json")]
    ['train', 'dev', 'dev']
    >>> [split_of(Path(p)) for p in ("3.평가/a.json", "02.검증데이터/a.json", "other/a.json")]
    ['test', 'dev', '']
    """
    for part in reversed(path.parts[:-1]):
        name = part.lower().strip("[]0123456789. ")
        if name.startswith(("valid", "vl", "vs", "dev")):
            return "dev"
        if name.startswith(("test", "eval")):
            return "test"
        if name.startswith(("train", "tl", "ts")):
            return "train"
    return next((split for part in path.parts[:-1] if (split := kind_named(part))), "")


def archives_below(root: Path) -> list[Path]:
    """Find archives still packed: zips and tars, and the .zip.part0 of AI Hub's cut-up downloads."""
    files = (Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    return sorted(file for file in files if _ARCHIVE.search(file.name))


def _no_labels(root: Path) -> UserError:
    packed = archives_below(root)
    if not packed:
        return UserError(f"no JSON labels below {root}: give the folder of the unpacked corpus")
    first = packed[0].relative_to(root)
    return UserError(
        f"no JSON labels below {root}, but {len(packed)} archives still packed: unpack each where it lies "
        f"({_unpacking(str(first))}), then run the same command"
    )


def _unpacking(archive: str) -> str:
    """Return the command for one archive; a zip gets a folder of its own name: labels apart from audio."""
    name, is_zip, part = archive.partition(".zip")
    if not is_zip:
        return f"tar xf '{archive}'"
    join = f"cat '{name}'.zip.part* > '{name}.zip'; " if part else ""
    return f"{join}python -m zipfile --metadata-encoding cp949 -e '{name}.zip' '{name}'"


class _AudioFolders:
    """Index of the folders in which the audio of a label may lie."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._by_name: dict[str, list[Path]] = {}
        for path, files, _ in walk(root):
            if any(file.lower().endswith(AUDIO_EXTENSIONS) for file in files):
                self._by_name.setdefault(path.name, []).append(path)
        self.count = sum(map(len, self._by_name.values()))
        self._candidates: dict[Path, list[Path]] = {}

    def _of(self, label_folder: Path) -> list[Path]:
        if label_folder not in self._candidates:
            relative = str(label_folder.relative_to(self._root))
            renamed = [self._root / relative.replace(a, b) for a, b in _LABEL_WORDS if a in relative]
            split = self._side(label_folder)
            same_name = [p for p in self._by_name.get(label_folder.name, []) if self._side(p) == split]
            few = [p for folders in self._by_name.values() for p in folders] if self.count <= 16 else []
            near = [p for p in few if self._side(p) == split]
            self._candidates = {
                label_folder: list(dict.fromkeys([label_folder, *renamed, *same_name, *near]))
            }
        return self._candidates[label_folder]

    def _side(self, folder: Path) -> str:
        return split_of(folder.relative_to(self._root) / "x") or "train"

    def find(self, label: Path, *names: str) -> Path | None:
        """Find a label's audio file under one of ``names`` (extensions do not count, folders may lead)."""
        stems = [without_audio_extension(name.replace("\\", "/"), _EXTENSIONS) for name in names]
        places = (folder / stem for folder in self._of(label.parent) for stem in stems)
        return next((file for path in places if (file := FINDER.find(path, AUDIO_EXTENSIONS))), None)


class _AiHub(Corpus):
    """Base of the three families: it walks the labels and finds the audio."""

    licence, url = "AI Hub: Korean nationals, no redistribution", "https://aihub.or.kr"
    key = ""  # the JSON member that identifies the family

    def __init__(self, root: str | Path) -> None:
        self.root = existing_folder(root)
        self._audio = _AudioFolders(self.root)
        found = {split_of(label.relative_to(self.root)) for label, problem in self._labels() if not problem}
        if not found:
            raise _no_labels(self.root)
        # the folders of a corpus without splits name none; where others do, such a label is rejected
        self._unnamed_problem = _UNNAMED if found > {""} else ""
        self._splits: list[str] = [split for split in ("train", "dev", "test") if split in found] or ["train"]

    def _labels(self) -> Iterator[tuple[Path, str]]:
        """Yield every label file, and every folder with the problem why it is not read."""
        for folder, files, problem in walk(self.root):
            if problem:
                yield folder, problem
            yield from ((folder / name, "") for name in files if name.lower().endswith(".json"))

    def splits(self) -> list[str]:
        """Return train, dev and test, as far as the folders' names distinguish them."""
        return self._splits

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield every record of every label file of the split, those of no split in the first."""
        for path, problem in self._labels():
            named = split_of(path.relative_to(self.root))
            if (named or self._splits[0]) != split:
                continue
            where = place(path, self.root)
            key = f"{split}/{os.path.splitext(where)[0]}"
            if problem or (problem := "" if named else self._unnamed_problem):
                yield Utterance(key, split, "", where, problem=problem)
                continue
            try:
                label = read_json(path)
                yield from self._records(label, path, key, split)
            except ValueError as error:
                yield Utterance(key, split, "", where, problem=f"unreadable label ({error})")
            except (KeyError, TypeError, AttributeError) as error:
                yield Utterance(key, split, "", where, problem=f"label of another kind ({error!r})")

    def _records(self, label: Any, path: Path, key: str, split: str) -> Iterator[Utterance]:
        raise NotImplementedError

    def _source(self, path: Path, *names: str) -> AudioSource:
        file = self._audio.find(path, *names, path.stem)
        if file is None:
            return AudioSource(path=str(path.parent / names[0]))  # the worker rejects it as missing
        return AudioSource(path=str(file), headerless=file.suffix.lower() in _HEADERLESS)


class Conversation(_AiHub):
    """자유대화 음성: one JSON an utterance with 발화정보.stt; ``fileNm`` may end in .wavp."""

    name, title, style, key = "aihub_conversation", "AI Hub 자유대화", "aihub", "발화정보"

    def _records(self, label: Any, path: Path, key: str, split: str) -> Iterator[Utterance]:
        speech, talk, speaker = label["발화정보"], _part(label, "대화정보"), _part(label, "녹음자정보")
        text, problem = text_of(speech["stt"])
        yield Utterance(
            id=key,
            split=split,
            text=text,
            where=place(path, self.root),
            source=self._source(path, _file_name(speech.get("fileNm"), path)),
            problem=problem,
            fields=text_fields(
                [
                    ("speaker", speaker.get("recorderId")),
                    ("gender", speaker.get("gender")),
                    ("age", speaker.get("age")),
                    ("region", talk.get("cityCode")),
                    ("environment", talk.get("recrdEnvrn")),
                ]
            ),
        )


class Command(_AiHub):
    """명령어 음성 and its kin (전사정보.LabelText). Labels that call themselves bad are rejected."""

    name, title, style, key = "aihub_command", "AI Hub 명령어", PLAIN, "전사정보"

    def _records(self, label: Any, path: Path, key: str, split: str) -> Iterator[Utterance]:
        script, file, speaker = label["전사정보"], _part(label, "파일정보"), _part(label, "화자정보")
        text, problem = text_of(
            next(
                script[k] for k in ("LabelText", "TransLabelText", "OrgLabelText", "") if k in script or not k
            )
        )
        quality = _part(label, "기타정보").get("QualityStatus") or "Good"
        if quality not in ("Good", "N/A"):
            problem = f"labelled as of bad quality ({quality})"
        yield Utterance(
            id=key,
            split=split,
            text=text,
            where=place(path, self.root),
            source=self._source(path, _file_name(file.get("FileName"), path)),
            problem=problem,
            fields=text_fields(
                [
                    ("speaker", speaker.get("SpeakerName")),
                    ("gender", speaker.get("Gender")),
                    ("age", speaker.get("Age")),
                    ("region", speaker.get("Region")),
                ]
            ),
            labelled_seconds=number_of(file.get("FileLength")) or 0.0,
        )


class Dialect(_AiHub):
    """한국어 방언 발화, and NIKL's 일상대화: one JSON a dialogue, utterances with start and end in seconds.

    ``form`` is "dialect" (as spoken) or "standard" (its standard-Korean spelling). Where each utterance
    has a file of its own (NIKL: DIALOGUE/DIALOGUE.1.1.1.pcm), that is taken, else a segment of the dialogue.
    """

    name, title, style, key = "aihub_dialect", "AI Hub 방언 / NIKL", "nikl", "utterance"

    def __init__(self, root: str | Path, form: str = "dialect") -> None:
        super().__init__(root)
        self._form = f"{form}_form"

    def _records(self, label: Any, path: Path, key: str, split: str) -> Iterator[Utterance]:
        for document in label.get("document", [label]):
            speakers = document.get("speaker") or _part(document, "metadata").get("speaker") or []
            people = {str(person.get("id")): person for person in speakers if isinstance(person, dict)}
            for number, entry in enumerate(document["utterance"]):
                if isinstance(entry, dict):
                    name = entry.get("id") or number
                    yield self._segment(entry, path, f"{key}/{name}", split, number, people)
                else:
                    where = f"{place(path, self.root)}[{number}]"
                    yield Utterance(f"{key}/{number}", split, "", where, problem="no utterance in the label")

    def _segment(
        self, entry: dict, path: Path, key: str, split: str, number: int, people: dict[str, dict]
    ) -> Utterance:
        source, problem = self._cut(entry, path)
        text, no_text = text_of(entry.get(self._form) or entry.get("form") or "")
        person = people.get(str(entry.get("speaker_id")), {})
        return Utterance(
            id=key,
            split=split,
            text=text,
            where=f"{place(path, self.root)}[{number}]",
            source=source,
            problem=problem or no_text,
            fields=text_fields(
                [
                    ("speaker", entry.get("speaker_id")),
                    ("gender", person.get("sex")),
                    ("age", person.get("age")),
                    ("region", person.get("principal_residence") or person.get("birthplace")),
                ]
            ),
        )

    def _cut(self, entry: dict, path: Path) -> tuple[AudioSource, str]:
        """Return an utterance's audio, a file of its own or a segment of the dialogue, and its problem."""
        own = self._audio.find(path, f"{path.stem}/{entry.get('id')}", str(entry.get("id")))
        if own is not None:
            return AudioSource(str(own), headerless=own.suffix.lower() in _HEADERLESS), ""
        if entry.get("start") in (None, "") or entry.get("end") in (None, ""):
            return AudioSource(), "segment without start and end"
        start, end, problem = segment_of(entry["start"], entry["end"])
        if problem:
            return AudioSource(), problem
        return dataclasses.replace(self._source(path, path.stem), start=start, end=end), ""


FAMILIES: dict[str, type[_AiHub]] = {"conversation": Conversation, "command": Command, "dialect": Dialect}


def detect_family(root: str | Path) -> str:
    """Detect a folder's family by its first readable label; UserError when none is of a known kind."""
    seen = 0
    for folder, files, _ in walk(existing_folder(root)):
        for name in files:
            if not name.lower().endswith(".json"):
                continue
            seen += 1
            try:
                label = read_json(folder / name)
            except ValueError:
                continue
            for family, reader in FAMILIES.items():
                if isinstance(label, dict) and (
                    reader.key in label or (family == "dialect" and "document" in label)
                ):
                    return family
    if not seen:
        raise _no_labels(Path(root))
    keys = " or ".join(reader.key for reader in FAMILIES.values())
    raise UserError(f"none of {seen} JSON files below {root} holds {keys}: give --family, or another folder")


def _part(label: dict, name: str) -> dict:
    """Return a member of a label that should be an object, an empty one for what is none."""
    part = label.get(name)
    return part if isinstance(part, dict) else {}


def _file_name(value: Any, label: Path) -> str:
    return value if isinstance(value, str) and value else label.stem
