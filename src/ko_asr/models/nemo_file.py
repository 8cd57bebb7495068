"""Open a .nemo: first what can be known before NeMo, which takes seconds to import, then the model."""

import importlib
import logging
import os
import tarfile
import warnings
from pathlib import Path
from typing import Any

import yaml

from ko_asr.errors import UserError
from ko_asr.models.nemo_ctc import NemoCtc


def check_nemo_file(path: str | Path) -> None:
    """Raise UserError when ``path`` is missing, is no .nemo archive, or was cut off.

    A .nemo is a tar with model_config.yaml and the weights. tarfile sees a cut inside a member only when it
    is read, so the last member's end is compared with the file's size.
    """
    if not Path(path).is_file():
        raise UserError(f"no model at {path}: give a .nemo file, such as recipes/train_ctc.py writes")
    try:
        with tarfile.open(path, "r:") as archive:  # NeMo writes no compression
            members = archive.getmembers()
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path} is not a whole .nemo file ({error}): copy or export it again") from error
    if not any(Path(member.name).name == "model_config.yaml" for member in members):
        raise UserError(f"{path} is a tar without model_config.yaml, not a .nemo file: give a model's .nemo")
    if max(member.offset_data + member.size for member in members) > os.path.getsize(path):
        raise UserError(f"{path} is not a whole .nemo file (its end is missing): copy or export it again")


def read_config(path: str | Path) -> dict[str, Any]:
    """The model_config.yaml of a .nemo as plain data, without NeMo; UserError as ``check_nemo_file``."""
    check_nemo_file(path)
    with tarfile.open(path, "r:") as archive:
        members = archive.getmembers()
        stream = archive.extractfile(next(m for m in members if Path(m.name).name == "model_config.yaml"))
        try:
            config = yaml.safe_load(stream) if stream else None
        except yaml.YAMLError as error:
            raise UserError(f"{path}: model_config.yaml is not YAML: copy or export it again") from error
    if not isinstance(config, dict):
        raise UserError(f"{path}: model_config.yaml is empty: copy or export it again")
    return config


def tokenizer_bytes(path: str | Path) -> bytes | None:
    """The SentencePiece model inside a .nemo, None where it has none (a character model, say)."""
    with tarfile.open(path, "r:") as archive:
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
    """Restore any NeMo speech recognition model for inference; UserError when the file is not a whole one."""
    check_nemo_file(path)

    quiet_nemo()
    from nemo.collections.asr.models import ASRModel

    _give_nemo_a_later_tarfile()
    try:
        model = ASRModel.restore_from(str(path), map_location=device)
    except Exception as error:  # NeMo raises a dozen kinds, from UnpicklingError to ConfigAttributeError
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is not a readable NeMo model ({reason}): copy or export it again") from error
    return model.eval()


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
