"""A small copy of a run: a few utterances of its manifests, on one device, in a temporary folder."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
from omegaconf import open_dict

from ko_asr.data.manifest import read_manifest, write_manifest
from ko_asr.errors import UserError
from ko_asr.runtime.frames import is_feasible
from ko_asr.text.tokenizer import load
from ko_asr.training.checks import check_run
from ko_asr.training.train import MakeModel, train

if TYPE_CHECKING:
    from omegaconf import DictConfig

LOOKED_AT = 1000  # entries of a manifest that the few are chosen from


def choose(config: "DictConfig", manifest: str, count: int) -> list[dict]:
    """``count`` entries that training takes, from the shortest to the longest of a manifest's first."""
    limits, encoder = config.model.train_ds, config.model.encoder
    shortest, longest = limits.get("min_duration") or 0, limits.get("max_duration") or 1e9
    tokenizer = load(config.model.tokenizer.dir)

    def is_taken(entry: dict) -> bool:
        tokens, seconds = tokenizer.encode(entry["text"]), entry["duration"]
        fits = is_feasible(tokens, seconds, encoder.subsampling_factor, encoder.causal_downsampling)
        return shortest <= seconds <= longest and fits

    first = zip(read_manifest(manifest), range(LOOKED_AT), strict=False)
    taken = [entry for entry, _ in first if is_taken(entry)]
    if len(taken) < count:
        raise UserError(
            f"among the first {LOOKED_AT} of {manifest} are {len(taken)} that training would take, and "
            f"{count} are needed: look at model.train_ds.min_duration, max_duration and the CTC feasibility"
        )
    taken.sort(key=lambda entry: entry["duration"])
    return [taken[round(k * (len(taken) - 1) / (count - 1))] for k in range(count)]


def small_config(
    config: "DictConfig", folder: Path, train: list[dict], dev: list[dict], steps: int, epoch: int = 1
) -> "DictConfig":
    """A copy of ``config`` with batches of as many utterances as ``train`` has, writing into ``folder``.

    It validates after each ``epoch`` steps, and ends after ``steps``. Augmentation stays: speed perturbation
    adds two versions of each utterance to an epoch.
    """
    small = copy.deepcopy(config)
    with open_dict(small):
        small.debug = small.profile = False
        small.advised_batch = small.feature_cache_mb = 0
        small.exp_manager.exp_dir = str(folder / "experiments")
        _use_entries(small.model.train_ds, train * epoch, len(train), folder)
        _use_entries(small.model.validation_ds, dev, len(dev), folder)
        small.trainer.update(devices=1, num_nodes=1, sync_batchnorm=False, accumulate_grad_batches=1)
        small.trainer.update(max_steps=steps, max_epochs=-1, limit_train_batches=epoch, limit_val_batches=1)
        small.trainer.update(val_check_interval=1.0, check_val_every_n_epoch=1, log_every_n_steps=1)
        small.trainer.enable_progress_bar = False
        if "warmup_steps" in small.model.optim.get("sched", {}):
            small.model.optim.sched.warmup_steps = min(20, steps // 2)
    return small


def _use_entries(dataset: "DictConfig", entries: list[dict], batch_size: int, folder: Path) -> None:
    """Let ``dataset`` read ``entries`` in order from a manifest in ``folder``, unless it reads shards."""
    if dataset.get("input_cfg") is None:
        path = folder / f"{len(list(folder.glob('*.jsonl')))}.jsonl"
        write_manifest(path, entries)
        dataset.manifest_filepath = str(path)
    dataset.update(batch_size=batch_size, batch_duration=None, quadratic_duration=None, shuffle=False)
    dataset.update(use_bucketing=False, num_workers=0, pin_memory=False)


def run_small(config: "DictConfig", make_model: MakeModel, callbacks: Sequence[pl.Callback]) -> Path:
    """Train a small config and return its .nemo; UserError when ``max_time_per_run`` is too short for it."""
    model = train(config, check_run(config), make_model, callbacks)
    if model is None:
        raise UserError("max_time_per_run is over before a few steps are: leave it out or raise it")
    return model
