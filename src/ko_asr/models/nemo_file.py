"""Open a .nemo: first what can be known before NeMo, which takes seconds to import, then the model."""

import contextlib
import gzip
import importlib
import logging
import os
import tarfile
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from ko_asr.errors import UserError
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.models.safe_load import check_config, load_weights, weights_only_always

MOST_BYTES = 64 << 30  # of a .nemo once unpacked: far more than any published model
_PACKED_AT_MOST = 200  # times smaller; weights, which are all but noise, become a tenth smaller at best


@contextlib.contextmanager
def open_archive(path: str | Path) -> Iterator[tarfile.TarFile]:
    """Open a .nemo for reading: a plain tar or, of before NeMo 1.7 (February 2022), a gzipped one.

    A gzipped one is unpacked to a temporary file first, so that members can be read in any order. Raises
    UserError when ``path`` is missing, is no archive, was cut off, would unpack to more than a model, or
    outside of its folder.
    """
    if not Path(path).is_file():
        raise UserError(f"no model at {path}: give a .nemo file, such as recipes/train_ctc.py writes")
    with contextlib.ExitStack() as stack:
        try:
            plain = stack.enter_context(_plain_tar(Path(path)))
            archive = stack.enter_context(tarfile.open(fileobj=plain, mode="r:"))
            _check_end(archive, path, plain.seek(0, os.SEEK_END))
            check_members(archive.getmembers(), path)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path} is not a whole .nemo file ({error}): copy or export it again") from error
        yield archive


def _check_end(archive: tarfile.TarFile, path: str | Path, size: int) -> None:
    """tarfile sees a cut inside a member only when it is read, so the last member's end is compared."""
    if max((member.offset_data + member.size for member in archive.getmembers()), default=0) > size:
        raise UserError(f"{path} is not a whole .nemo file (its end is missing): copy or export it again")


def check_members(members: Iterable[tarfile.TarInfo], path: str | Path) -> None:
    """Raise UserError for what would be written outside of a folder, or is neither file nor folder."""
    for member in members:
        parts = PurePosixPath(member.name).parts
        if not (member.isfile() or member.isdir()) or ".." in parts or member.name.startswith("/"):
            raise UserError(
                f"{path} holds {member.name}, a link or a path outside of a model: it must not be loaded"
            )


def is_gzipped(path: str | Path) -> bool:
    """True for a file that begins as gzip does."""
    with Path(path).open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


@contextlib.contextmanager
def _plain_tar(path: Path) -> Iterator[IO[bytes]]:
    """The tar of a .nemo: the file itself, or a temporary one with what its gzip holds."""
    if not is_gzipped(path):
        with path.open("rb") as stream:
            yield stream
        return
    most = min(MOST_BYTES, max(1 << 28, _PACKED_AT_MOST * path.stat().st_size))
    with tempfile.TemporaryFile(prefix="ko_asr_nemo_") as unpacked, gzip.open(path) as packed:
        while block := packed.read(1 << 22):
            unpacked.write(block)
            if unpacked.tell() > most:
                raise UserError(
                    f"{path} unpacks to more than {most / 1e6:.0f} MB, which no model does: get it elsewhere"
                )
        unpacked.seek(0)
        yield unpacked


def check_nemo_file(path: str | Path) -> None:
    """Raise UserError when ``path`` is missing, is no .nemo archive, was cut off, or names code to run.

    A .nemo is a tar with model_config.yaml and the weights; the latter are checked when they are read.
    """
    read_config(path)


def _config_member(archive: tarfile.TarFile, path: str | Path) -> tarfile.TarInfo:
    for member in archive.getmembers():
        if Path(member.name).name == "model_config.yaml":
            return member
    raise UserError(f"{path} is a tar without model_config.yaml, not a .nemo file: give a model's .nemo")


def read_config(path: str | Path) -> dict[str, Any]:
    """The model_config.yaml of a .nemo as plain data, without NeMo; UserError as ``check_nemo_file``."""
    with open_archive(path) as archive:
        stream = archive.extractfile(_config_member(archive, path))
        try:
            config = yaml.safe_load(stream) if stream else None
        except yaml.YAMLError as error:
            raise UserError(f"{path}: model_config.yaml is not YAML: copy or export it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: model_config.yaml is empty: copy or export it again")
    check_config(config, path)
    return config


def tokenizer_bytes(path: str | Path) -> bytes | None:
    """The SentencePiece model inside a .nemo, None where it has none (a character model, say)."""
    with open_archive(path) as archive:
        for member in archive.getmembers():
            if member.name.endswith("tokenizer.model") and (stream := archive.extractfile(member)):
                return stream.read()
    return None


def newest_model(folder: Path) -> Path:
    """The .nemo modified last anywhere under ``folder``; UserError when there is none."""
    found = sorted(folder.rglob("*.nemo"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(
            f"no .nemo under {folder}: train one with python recipes/train_ctc.py, or name one with --model"
        )
    return found[-1]


def restore_model(path: str | Path, device: str = "cpu") -> Any:
    """Restore any NeMo speech recognition model for inference.

    UserError when the file is not a whole one or holds code.
    """
    check_nemo_file(path)

    quiet_nemo()
    from nemo.collections.asr.models import ASRModel

    _give_nemo_a_later_tarfile()
    weights_only_always()
    try:
        model = ASRModel.restore_from(str(path), map_location=device, save_restore_connector=_connector(path))
    except UserError:
        raise
    except Exception as error:  # NeMo raises a dozen kinds, from UnpicklingError to ConfigAttributeError
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is not a readable NeMo model ({reason}): copy or export it again") from error
    return model.eval()


def _connector(path: str | Path) -> Any:
    """NeMo's way to open the .nemo at ``path``, with its configurations checked and its weights only read."""
    from nemo.core.connectors.save_restore_connector import SaveRestoreConnector

    class CheckedConnector(SaveRestoreConnector):
        def _unpack_nemo_file(self, path2file: str, out_folder: str, members: Any = None) -> str:
            folder = SaveRestoreConnector._unpack_nemo_file(path2file, out_folder, members)
            for config in Path(folder).rglob("*.yaml"):  # what NeMo will read, were there two of a name
                check_config(yaml.safe_load(config.read_text(encoding="utf-8")), path)
            return folder

        def _load_state_dict_from_disk(self, model_weights: str, map_location: Any = "cpu") -> dict:
            return load_weights(model_weights, path, map_location)

    return CheckedConnector()


def _give_nemo_a_later_tarfile() -> None:
    """Let NeMo extract a .nemo on Python before 3.11.4 (Debian 12's), whose tarfile has no filters.

    Only NeMo's own modules see the backport.
    """
    if hasattr(tarfile, "data_filter"):
        return
    later = importlib.import_module("backports.tarfile")
    for name in ("core.connectors.save_restore_connector", "utils.model_utils", "utils.tar_utils"):
        vars(importlib.import_module(f"nemo.{name}"))["tarfile"] = later


def quiet_nemo() -> None:
    """Import NeMo with its banners and warnings off; errors still show. ``KO_ASR_VERBOSE=1`` keeps them."""
    if os.environ.get("KO_ASR_VERBOSE") == "1":
        return
    warnings.filterwarnings("ignore")
    os.environ.setdefault("NEMO_ONE_LOGGER_ERROR_HANDLING_STRATEGY", "propagate_exceptions")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.disable(logging.WARNING)
    from nemo.utils import logging as nemo_logging

    nemo_logging.setLevel(nemo_logging.ERROR)


def load_exportable_model(path: Path) -> NemoCtc:
    """Restore a .nemo on the CPU in eval mode. Raises UserError when it is not one we can export."""
    model = restore_model(path)
    if type(model).__name__ != "EncDecCTCModelBPE":
        raise UserError(f"{path} is a {type(model).__name__}; only EncDecCTCModelBPE is exported")
    return model
