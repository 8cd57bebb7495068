"""A repository is filled in a folder beside it and swapped in whole, model by model."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import ko_asr
from ko_asr.errors import UserError
from ko_asr.finishing import data

VERSION = "1"


@contextlib.contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as ``repository``, gone afterwards.

    Raises UserError when nothing can be written there: before any long work, not after it.
    """
    try:
        repository.mkdir(parents=True, exist_ok=True)
        place = _staging_place(repository.resolve())
        folder = Path(tempfile.mkdtemp(prefix=f".{repository.resolve().name}.", dir=place))
        with tempfile.TemporaryFile(dir=repository):
            pass
    except OSError as error:
        raise UserError(
            f"cannot write the model repository {repository} ({error.strerror}): "
            "make it writable, or name another with --repository"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _staging_place(repository: Path) -> Path:
    """Beside the repository, because Triton takes every folder inside it for a model.

    Inside it when it is a mount of its own (renames do not cross disks) or its parent is not ours to write.
    """
    parent = repository.parent
    beside = os.access(parent, os.W_OK) and parent.stat().st_dev == repository.stat().st_dev
    return parent if beside else repository


def copy_python_model(version: Path, template: Path) -> None:
    """Copy ``template`` and what it imports of ko_asr: a server needs no checkout of this project."""
    library = Path(ko_asr.__file__).parent
    shutil.copyfile(template, version / "model.py")
    (version / "ko_asr").mkdir()
    for name in ("__init__.py", "errors.py"):
        shutil.copyfile(library / name, version / "ko_asr" / name)
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ("runtime", "finishing"):
        shutil.copytree(library / package, version / "ko_asr" / package, ignore=ignored)
    data.compile_into(version / "ko_asr" / "finishing")  # the server's Python has no YAML


def publish(stage: Path, repository: Path, models: Iterable[str]) -> None:
    """Swap the model folders ``models`` of ``stage`` into ``repository``; others there are left alone.

    Each swap is two renames. The ensemble comes last and all folders carry one export id, so a run killed
    half-way leaves whole models, and the decoder refuses to serve a mixture.
    """
    for model in models:
        target, retired = repository / model, stage / f"{model}.retired"
        if target.exists():
            os.rename(target, retired)
        try:
            os.rename(stage / model, target)
        except OSError:
            if retired.exists():
                os.rename(retired, target)
            raise
