"""KsponSpeech as AI Hub delivers it (dataSetSn=123), however it was unpacked, or not unpacked at all.

969 hours of spontaneous Korean dialogue (Bang et al., Applied Sciences 10(19), 2020). Korean nationals can
have it from AI Hub; it must not be passed on.

Users keep it in many ways: scripts in ``scripts/``, ``KsponSpeech_scripts/``, the root or still in their zip;
audio below ``한국어_음성_분야/``, ``train/``, the root, or in zips; eval folders below ``KsponSpeech_eval/``,
``test/`` or the root. So nothing is assumed: the tree is searched for the scripts, for the folders that the
scripts name, and for zips.
"""

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from ko_asr.audio.source import AudioSource
from ko_asr.corpora.base import Corpus, Utterance
from ko_asr.corpora.demo import SYNTHETIC
from ko_asr.errors import UserError
from ko_asr.text.normalizer import KSPONSPEECH

SPLITS = ("train", "dev", "eval_clean", "eval_other")
PUBLISHED = {"train": 620_000, "dev": 2_545, "eval_clean": 3_000, "eval_other": 3_000}

# Folders of 1,000 files and more each, which the search does not list.
_AUDIO_FOLDER = re.compile(r"KsponSpeech_\d{4}|eval_clean|eval_other")
_SEPARATOR = re.compile(r"\s*::\s?")
_SEARCH_DEPTH = 5
_SEARCH_LIMIT = 20_000  # folders; a whole disk given by mistake is refused instead of being searched


class _Layout:
    """Scripts, audio folders and archives that a search of the given folders found."""

    def __init__(self, roots: list[Path]) -> None:
        self.scripts: dict[str, Path] = {}
        self.folders: dict[str, list[Path]] = {}
        self.archives: dict[str, Path] = {}
        self.broken: dict[str, Path] = {}
        self._visited = 0
        for root in roots:
            if not root.is_dir():
                raise UserError(f"no folder {root}: name the folder that holds KsponSpeech")
            self._search(root, 0)

    def _search(self, folder: Path, depth: int) -> None:
        self._visited += 1
        if self._visited > _SEARCH_LIMIT:
            raise UserError(
                f"{folder} is deep in a tree of over {_SEARCH_LIMIT} folders: name KsponSpeech's own folder"
            )
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            return  # lost+found and the like
        for entry in entries:
            if _AUDIO_FOLDER.fullmatch(entry.name) and entry.is_dir():
                self.folders.setdefault(entry.name, []).append(entry)
            elif entry.suffix.lower() == ".trn" and entry.is_file():
                self.scripts.setdefault(entry.stem.lower(), entry)
            elif ".zip" in map(str.lower, entry.suffixes) and entry.is_file():
                self._add_archive(entry)
            elif depth < _SEARCH_DEPTH and not entry.suffix and entry.is_dir():
                self._search(entry, depth + 1)

    def _add_archive(self, path: Path) -> None:
        if not zipfile.is_zipfile(path):
            self.broken[path.name.split(".zip")[0]] = path  # also the .zip.part0 of a cut-up download
        elif "script" in path.stem.lower():
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".trn"):
                        self.scripts.setdefault(PurePosixPath(name).stem, path)
        else:
            self.archives.setdefault(path.stem, path)


class KsponSpeech(Corpus):
    """The corpus below ``root``; ``zips`` is where its zips lie when that is elsewhere."""

    name = "ksponspeech"
    title = "KsponSpeech"
    licence = "AI Hub terms of use: Korean nationals, no redistribution"
    url = "https://aihub.or.kr/aihubdata/data/view.do?dataSetSn=123"
    style = KSPONSPEECH
    published = PUBLISHED

    def __init__(self, root: Path, zips: Path | None = None) -> None:
        self._roots = [root.absolute(), *([zips.absolute()] if zips else [])]
        self._layout = _Layout(self._roots)
        self._places: dict[str, tuple[str, str, str]] = {}
        if not self._layout.scripts:
            raise UserError(self._no_scripts())
        self.synthetic = (root / SYNTHETIC).exists()
        if self.synthetic:  # KsponSpeech's published counts are not held against it
            self.title, self.licence = "Demo corpus in KsponSpeech's layout", "none needed"
            self.url, self.published = "recipes/make_demo_corpus.py", {}

    def _no_scripts(self) -> str:
        looked = " and ".join(map(str, self._roots))
        message = f"no .trn scripts below {looked} ({_SEARCH_DEPTH} levels deep, and in *scripts*.zip)"
        if self._layout.broken:
            return f"{message}; {next(iter(self._layout.broken.values()))} is no whole zip: download it again"
        return f"{message}: name the folder that holds train.trn, or its KsponSpeech_scripts.zip"

    def splits(self) -> list[str]:
        """Return those of `SPLITS` that have a script."""
        found = [split for split in SPLITS if split in self._layout.scripts]
        if not found:
            names = ", ".join(f"{name}.trn" for name in self._layout.scripts)
            raise UserError(f"found {names} but none of {', '.join(f'{s}.trn' for s in SPLITS)}")
        return found

    def count(self, split: str) -> int:
        """Count the lines of the split's script."""
        with self._open_script(split) as stream:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b""))

    def utterances(self, split: str) -> Iterator[Utterance]:
        """Yield an utterance for every line of the split's script."""
        with self._open_script(split) as stream:
            for number, line in enumerate(stream, start=1):
                yield self._utterance(split, line, number, f"{split}.trn:{number}")

    def _open_script(self, split: str) -> IO[bytes]:
        script = self._layout.scripts[split]
        if script.suffix.lower() == ".trn":
            return script.open("rb")
        archive = zipfile.ZipFile(script)
        return archive.open(next(n for n in archive.namelist() if PurePosixPath(n).name == f"{split}.trn"))

    def _utterance(self, split: str, line: bytes, number: int, where: str) -> Utterance:
        text, problem = _decode(line, number)
        parts = _SEPARATOR.split(text.strip(), maxsplit=1)
        if problem or len(parts) != 2 or not parts[0]:
            return Utterance(
                "", split, text.strip(), where, problem=problem or "no 'path :: text' in the line"
            )
        path = parts[0].replace("\\", "/").removeprefix("./").lstrip("/")
        identifier = os.path.splitext(path)[0]  # pathlib takes ten times as long
        parent, _, name = path.rpartition("/")
        folder, archive, problem = self._place(parent)
        file = f"{folder}/{name}" if folder else ""
        source = AudioSource(path=file, archive=archive, member=path, headerless=True)
        return Utterance(identifier, split, parts[1], where, source, problem)

    def _place(self, parent: str) -> tuple[str, str, str]:
        """Return (folder, archive, problem) for the script paths of one folder; looked up once a folder."""
        if parent not in self._places:
            archive, folder = self._archive(parent), self._folder(parent)
            broken = [p for part in PurePosixPath(parent).parts if (p := self._layout.broken.get(part))]
            problem = f"broken archive ({broken[0].name} is no whole zip)" if broken else ""
            if not folder and not archive and not problem:
                folder = str(self._roots[0] / parent)  # the workers will say that the file is missing there
            self._places[parent] = (folder, archive, "" if folder or archive else problem)
        return self._places[parent]

    def _folder(self, parent: str) -> str:
        """Find the folder on disk that agrees with most of ``parent`` from its end; "" when there is none."""
        wanted = PurePosixPath(parent).parts[::-1]
        candidates = self._layout.folders.get(wanted[0] if wanted else "", [])
        candidates = [*candidates, *(p for root in self._roots if (p := root / parent).is_dir())]
        return str(max(candidates, key=lambda folder: _common(folder.parts[::-1], wanted), default=""))

    def _archive(self, parent: str) -> str:
        """Find the zip named like the first component that has one: KsponSpeech_01.zip, or the eval zip."""
        parts = PurePosixPath(parent).parts
        found = [self._layout.archives[part] for part in parts if part in self._layout.archives]
        if not found and parts and parts[-1].startswith("eval_"):
            found = [p for stem, p in self._layout.archives.items() if stem.endswith("_eval")]
        return str(found[0]) if found else ""


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _decode(line: bytes, number: int) -> tuple[str, str]:
    """Return (text, problem): UTF-8 with or without BOM, else CP949, AI Hub's documented encoding.

    Line by line, because scripts that were edited by hand mix both, and because one bad line is one rejected
    utterance.
    """
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
        if line.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise UserError("a script is UTF-16: save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    for encoding in ("utf-8", "cp949"):
        try:
            return line.decode(encoding), ""
        except UnicodeDecodeError:
            continue
    return line.decode("utf-8", errors="replace"), "neither UTF-8 nor CP949"
