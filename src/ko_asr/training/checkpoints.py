"""Checkpoints are whole or absent: written beside their place and renamed, never at the last one's price.

Lightning writes a checkpoint through the system's temporary folder and NeMo marks it unfinished meanwhile.
When the disk fills up or the process dies at that moment, NeMo's next start finds a marker beside a good
checkpoint, and removes it, or several "last" checkpoints, and refuses.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.models.safe_load import load_checkpoint
from ko_asr.models.weights import open_weights

_UNFINISHED = "-unfinished"  # NeMoModelCheckpoint.UNFINISHED_CHECKPOINT_SUFFIX
_ADAM_STATES = 2  # first and second moment, each as large as the weights


@contextlib.contextmanager
def _explain(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch turns a failed write into RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(
            f"cannot write {path} ({reason}): earlier checkpoints are untouched, so make room and run the "
            "same command again"
        ) from error


@contextlib.contextmanager
def first_error() -> Iterator[None]:
    """Raise what stopped a run, not what failed after it: a tracker's files may lie on the same full disk."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError) and not _is_full_disk(cause):
            cause = cause.__context__
        if cause is None or cause is error:
            raise
        raise cause from None


def _is_full_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's file format, streamed to a file beside its place and renamed when it is on disk."""

    def save_checkpoint(self, checkpoint: dict, path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; UserError when it cannot be written, and then nothing is."""
        with _explain(path), atomic_write(path, "wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())  # network file systems report a full disk only here

    def load_checkpoint(self, path: Any, map_location: Any = None, **_: Any) -> dict:
        """The checkpoint at ``path``, on the CPU; UserError when it is damaged or holds code."""
        return load_checkpoint(path)


def save_nemo(model: NemoCtc, path: Path) -> None:
    """Write ``model`` as a .nemo file; UserError when it cannot be written. To be called on one rank."""
    temporary = path.with_name(f".{path.name}.tmp")
    with _explain(path):
        try:
            model.save_to(str(temporary))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def tidy_checkpoints(folder: Path) -> None:
    """Remove what a killed run left: half files, markers of whole checkpoints, all "last" but the newest."""
    for leftover in (*folder.glob(".*.tmp"), *folder.glob(f"*{_UNFINISHED}")):
        leftover.unlink(missing_ok=True)
    newest_first = sorted(folder.glob("*last.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    for superseded in newest_first[1:]:
        superseded.unlink(missing_ok=True)


def check_free_space(folder: Path, model: NemoCtc, top_k: int) -> int:
    """Bytes that a run will yet write into the run folder ``folder``; UserError if its disk has fewer free.

    A checkpoint holds weights and Adam's two moments. There are ``top_k`` best ones (one at least), the last,
    one being written before another is removed, and the .nemo.
    """
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    count = max(top_k, 1) + 2
    present = sum(file.stat().st_size for file in folder.rglob("*.ckpt"))
    needed = max(count * weights * (1 + _ADAM_STATES) - present, 0) + weights
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has {free / 1e9:.2f} GB free and {count} checkpoints of this model take "
            f"{needed / 1e9:.2f} GB: make room, set exp_manager.exp_dir to another disk, or lower "
            "exp_manager.checkpoint_callback_params.save_top_k"
        )
    return needed


def write_best(trainer: Any, model: NemoCtc, path: Path, is_best: bool) -> None:
    """Write the best checkpoint as the .nemo at ``path``; ``is_best``: ``model`` holds it already."""
    best = trainer.checkpoint_callback.best_model_path if trainer.checkpoint_callback else ""
    if best and not is_best:
        with open_weights(Path(best)) as state:
            model.load_state_dict(state)
    save_nemo(model, path)
