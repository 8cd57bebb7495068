"""Audio that training cannot read: named before the first step, and named and counted when it turns up later.

Lhotse leaves such audio out without a word, and a batch of nothing else ends in "max() arg is an
empty sequence".
"""

import json
import os
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

FILE = "unreadable.jsonl"  # in experiments/NAME/run/
MOST_OPENED = 20_000  # lines of a manifest up to which every file is opened
SAMPLED = 2000  # else so many
TOO_SHORT = 0.5  # seconds that the manifest may promise more than there is
_THREADS = 8  # opening a file is waiting for a disk
_NAMED = 3  # files in a sentence


class Opened(NamedTuple):
    """What opening the files of a manifest has shown: paths with reasons, files opened and lines in all."""

    manifest: str
    unreadable: list[tuple[str, str]]
    opened: int
    lines: int

    def __str__(self) -> str:
        which = f"all {self.lines}" if self.opened == self.lines else f"{self.opened} of {self.lines}"
        return f"{len(self.unreadable)} of {which} utterances of {self.manifest} cannot be read"


def check_audio(config: "DictConfig") -> list[Opened]:
    """Open the audio of both manifests by its header; what was found, one a manifest of single files.

    UserError with the first files when more than the share ``max_unreadable`` cannot be read, or is half a
    second shorter than its manifest says. Of more than 20,000 lines a sample of 2,000 is opened.
    """
    found = []
    for dataset in (config.model.train_ds, config.model.validation_ds):
        if dataset.get("input_cfg"):  # shards: recipes/shard_manifest.py has read them whole
            continue
        result = open_manifest(dataset.manifest_filepath)
        found.append(result)
        if not result.unreadable:
            continue
        named = "; ".join(f"{path}: {reason}" for path, reason in result.unreadable[:_NAMED])
        if len(result.unreadable) > config.get("max_unreadable", 0.0) * result.opened:
            raise UserError(
                f"{result} ({named}): prepare the corpus again, drop these lines from the manifest, or go on "
                "without them by max_unreadable=SHARE"
            )
        print(f"warning: {result} and will be left out ({named})", flush=True)
    return found


def open_manifest(manifest: str | Path) -> Opened:
    """Open the audio that the lines of ``manifest`` name; no samples are read."""
    entries = list(read_manifest(manifest))
    chosen = entries
    if len(entries) > MOST_OPENED:
        chosen = random.Random(0).sample(entries, SAMPLED)
    with ThreadPoolExecutor(_THREADS) as threads:
        reasons = list(threads.map(_reason, chosen))
    unreadable = {
        entry["audio_filepath"]: reason for entry, reason in zip(chosen, reasons, strict=True) if reason
    }
    lines = [(path, unreadable[path]) for entry in chosen if (path := entry["audio_filepath"]) in unreadable]
    # Each file once in front, so that a sentence names different ones; then as many as there are lines.
    return Opened(str(manifest), [*unreadable.items(), *lines[len(unreadable) :]], len(chosen), len(entries))


def _reason(entry: dict) -> str:
    """Why the audio of a manifest line cannot be used; empty where it can."""
    import soundfile

    path = entry["audio_filepath"]
    try:
        if not os.path.getsize(path):
            return "the file is empty"
        with soundfile.SoundFile(path) as audio:  # soundfile.info takes twice as long
            seconds = audio.frames / audio.samplerate
    except OSError as error:
        return error.strerror or str(error)
    except soundfile.LibsndfileError as error:
        return str(error.error_string).rstrip(".")
    offset, duration = entry.get("offset", 0.0), entry.get("duration", 0.0)
    if offset and offset >= seconds:
        return f"lasts {seconds:.2f} s, and the segment begins at {offset:g} s"
    if offset + duration > seconds + TOO_SHORT:
        return f"lasts {seconds:.2f} s, and the manifest says {offset + duration:.2f} s"
    return ""


class NamingLoader:
    """Lhotse's loader of a batch's audio, which names what it leaves out.

    Each file is told once a process, on standard error and as a line of ``log``.
    """

    def __init__(self, load: Any, log: Path) -> None:
        self.load, self.log = load, log
        self.told: set[str] = set()

    def __call__(self, cuts: Any) -> Any:
        """(audio, lengths, cuts) of what could be read; UserError when nothing of the batch could."""
        batch = list(cuts)
        try:
            loaded = self.load(cuts)
        except ValueError as error:  # of an empty batch
            if not (lost := [(cut, reason) for cut in batch if (reason := _lost(cut))]):
                raise
            self._tell(lost)
            raise UserError(
                f"none of the {len(batch)} utterances of a batch can be read, the first is "
                f"{_path(lost[0][0])} ({lost[0][1]}): prepare the corpus again, or drop the files that "
                f"{self.log} names"
            ) from error
        kept = {cut.id for cut in loaded[2]}
        self._tell([(cut, _lost(cut)) for cut in batch if cut.id not in kept])
        return loaded

    def _tell(self, lost: Sequence[tuple[Any, str]]) -> None:
        for cut, reason in lost:
            if (path := _path(cut)) in self.told:
                continue
            self.told.add(path)
            print(f"warning: left out of training: {path} ({reason})", file=sys.stderr, flush=True)
            line = {"audio_filepath": path, "offset": cut.start, "duration": cut.duration, "reason": reason}
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("a", encoding="utf-8") as stream:  # one write, so that processes do not mix
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")


def _path(cut: Any) -> str:
    sources = getattr(getattr(cut, "recording", None), "sources", None) or ()
    return str(sources[0].source) if sources and sources[0].type == "file" else str(cut.id)


def _lost(cut: Any) -> str:
    """Why a cut cannot be loaded, in a line; empty where it can."""
    try:
        cut.load_audio()
    except Exception as error:  # each of Lhotse's readers has its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return (lines[0] if lines else type(error).__name__)[:200]
    return ""


def name_unreadable(model: Any, log: Path) -> None:
    """Let the loaders of ``model`` name what Lhotse leaves out; NeMo's other loaders end by themselves."""
    loaders = [model._train_dl, model._validation_dl]
    for loader in [part for each in loaders for part in (each if isinstance(each, list) else [each])]:
        dataset = getattr(loader, "dataset", None)
        while dataset is not None and not hasattr(dataset, "load_audio"):
            dataset = getattr(dataset, "dataset", None)
        if dataset is not None and not isinstance(dataset.load_audio, NamingLoader):
            dataset.load_audio = NamingLoader(dataset.load_audio, log)


def report_unreadable(log: Path) -> None:
    """Print how many files a run has left out, if any."""
    if log.is_file():
        files = {json.loads(line)["audio_filepath"] for line in log.read_text(encoding="utf-8").splitlines()}
        print(f"{len(files)} files could not be read and were left out of training: {log}", flush=True)


def sentence_of_worker(error: UserError) -> UserError:
    """The error as its first cause said it: torch puts the traceback of a loader's process before it."""
    return UserError(str(error).rsplit("UserError: ", 1)[-1].strip())
