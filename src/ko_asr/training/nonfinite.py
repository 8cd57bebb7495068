"""Training that has lost its numbers stops, and says at which step and over which utterances.

NeMo's ``skip_nan_grad`` leaves out the step of a loss that is NaN. That saves a run from one broken
utterance, but alone it would also run for days in which every step is left out. And batch norm's running
statistics take the NaN in all the same: every later validation would be NaN, while training goes on.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
import torch.distributed

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import SaidByFirstProcess, UserError

NAMED = 3  # utterances in the sentence
DURATION_TOLERANCE = 0.12  # speed perturbation changes a duration by up to a tenth


class StopOnNonFiniteLoss(pl.Callback):
    """Ends training by UserError after ``limit`` non-finite losses in a row.

    After each one it puts the batch-norm statistics back as they were before the step. ``manifest`` names
    the utterances. On several devices all stop together, and the first process says why for all of them.
    """

    def __init__(self, limit: int, manifest: str | Path) -> None:
        self.limit, self.manifest = limit, manifest
        self.in_a_row = 0
        self.statistics: list[tuple[torch.Tensor, torch.Tensor]] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.statistics = [
            (buffer, buffer.clone()) for name, buffer in module.named_buffers() if "running_" in name
        ]

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        here = not math.isfinite(outputs["loss"])
        anywhere = trainer.strategy.reduce_boolean_decision(here, all=False)
        self.in_a_row = self.in_a_row + 1 if anywhere else 0
        if not anywhere:
            return
        for buffer, before in self.statistics:
            buffer.copy_(before)
        if self.in_a_row >= self.limit:
            self._stop(trainer, _cause(module, batch, self.manifest) if here else None)

    def _stop(self, trainer: pl.Trainer, cause: str | None) -> NoReturn:
        """End this process; ``cause`` is None where only another one's loss is not finite."""
        causes = _from_all(cause, trainer.world_size)
        if not trainer.is_global_zero:
            raise SaidByFirstProcess
        raise UserError(
            f"the loss was not a finite number in {self.limit} steps in a row, the last of them step "
            f"{trainer.global_step}: {next(cause for cause in causes if cause)}"
        )


def _from_all(value: str | None, processes: int) -> list[str | None]:
    """``value`` of every process, in the order of their ranks."""
    values = [value] * processes
    if processes > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def _cause(module: Any, batch: tuple, manifest: str | Path) -> str:
    """The visible reason and what to do about it: lost weights, broken audio, or neither."""
    lost = next((name for name, value in module.named_parameters() if not torch.isfinite(value).all()), None)
    if lost:
        return f"the weights themselves are lost ({lost}); lower model.optim.lr or use trainer.precision=32"
    broken = ~torch.isfinite(batch[0]).flatten(1).all(dim=1)
    if broken.any():
        names = utterance_names(module, batch, manifest, broken.nonzero().flatten().tolist())
        return f"audio with samples that are no numbers, which must be prepared again: {names}"
    names = utterance_names(module, batch, manifest, range(len(batch[0])))
    return f"listen to the utterances of its batch, or lower model.optim.lr: {names}"


def utterance_names(module: Any, batch: tuple, manifest: str | Path, rows: Iterable[int]) -> str:
    """Audio paths of rows of a batch, found by their tokens and duration; their text where none fits.

    NeMo's batches (signal [B, samples], lengths [B], tokens [B, U], token lengths [B]) carry no names.
    """
    from ko_asr.training.feature_cache import batch_seconds

    _, _, tokens, token_lengths = batch[:4]
    durations = batch_seconds(batch, module.cfg.sample_rate)[0]
    wanted = [(tokens[row, : token_lengths[row]].tolist(), float(durations[row])) for row in rows]
    by_text: dict[str, list[dict]] = {module.tokenizer.ids_to_text(ids): [] for ids, _ in wanted[:NAMED]}
    for entry in read_manifest(manifest):
        if entry["text"] in by_text:
            by_text[entry["text"]].append(entry)
    names = []
    for ids, seconds in wanted[:NAMED]:
        text = module.tokenizer.ids_to_text(ids)
        near = [e for e in by_text[text] if abs(e["duration"] / seconds - 1) <= DURATION_TOLERANCE]
        best = min(near, key=lambda e: abs(e["duration"] - seconds), default=None)
        names.append(best["audio_filepath"] if best else f"'{text}' ({seconds:.1f} s)")
    more = len(wanted) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
