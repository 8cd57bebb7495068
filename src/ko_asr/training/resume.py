"""A run that was killed and started again trains as if it had never stopped.

Lightning's checkpoint holds weights, optimiser, schedule and counters. What it lacks with a Lhotse loader is
the place in the epoch and the state of the random numbers. Neither is stored here: both are functions of the
seed, the epoch and the number of the batch, so any checkpoint of any rank is enough, and runs that split the
same batches over devices or over accumulation steps draw the same augmentation and dropout.

Shards (``input_cfg``) are the exception: an endless stream, read in an order that no one stored. A resumed
run goes on with freshly shuffled shards.
"""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from ko_asr.errors import UserError


def fix_data_order(dataset: Any) -> None:
    """Make the batches of a ``train_ds`` config a function of its seed and the epoch, on every rank.

    NeMo's defaults are a shuffling seed drawn by each process, which under DDP gives ranks overlapping data,
    and a thread that fills buckets in whatever order it is scheduled. Shards keep them: there, different
    seeds are what keeps ranks and workers apart.
    """
    from omegaconf import open_dict

    if dataset.get("input_cfg"):
        return
    with open_dict(dataset):
        dataset.shard_seed = dataset.seed
        dataset.concurrent_bucketing = False


def seed_batch(seed: int, epoch: int, number: int) -> None:
    """Seed torch (every device) and ``random`` for batch ``number`` of an epoch, counted over all ranks."""
    state = int(np.random.SeedSequence((seed, epoch, number)).generate_state(1)[0])
    torch.manual_seed(state)
    random.seed(state)  # NeMo draws the look-ahead of a streaming encoder with it


class ResumeExactly(pl.Callback):
    """Seeds each batch, and puts the sampler of a restored run where the checkpoint was written."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._has_started = False

    def on_load_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict) -> None:
        # NeMo loads the best checkpoint once more when training has ended.
        sampler = getattr(module.train_dataloader(), "sampler", None)
        if self._has_started or not hasattr(sampler, "_just_restored_state"):
            return
        progress = checkpoint["loops"]["fit_loop"]
        batches = progress["epoch_loop.batch_progress"]["current"]["completed"]
        fast_forward(sampler, progress["epoch_progress"]["current"]["processed"], batches)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._has_started = True
        # Saved during validation, before Lightning counts the step: a resume would shift the loggers' axis.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch, index: int
    ) -> None:
        number = index * trainer.world_size + trainer.global_rank
        seed_batch(self.seed, trainer.current_epoch, number)


def fast_forward(sampler: Any, epoch: int, batches: int) -> None:
    """Advance a Lhotse sampler past the first ``batches`` batches of an epoch; no audio is read.

    Lhotse's own load_state_dict does so, but refuses samplers with a constraint object, such as NeMo's.
    UserError when the epoch has fewer batches: the manifest is not the one of the checkpoint.
    """
    sampler.set_epoch(epoch)
    iter(sampler)
    for number in range(batches):
        if next(sampler, None) is None:
            raise UserError(
                f"the checkpoint was written after batch {batches} of an epoch that now has {number}: "
                "the training manifest or the batch size has changed, so start a run of another name"
            )
    sampler._just_restored_state = True
