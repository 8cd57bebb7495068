"""What every training run does around NeMo's own classes: checks first, then a quiet, resumable fit."""

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ko_asr.errors import UserError
from ko_asr.feasibility import TokenStatistics, refuse_infeasible, token_statistics
from ko_asr.manifest import read_manifest
from ko_asr.manifest_schema import FILES_CHECKED, validate_manifest
from ko_asr.tokenizer import load

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_data(config: "DictConfig") -> None:
    """Raise UserError, before the slow imports, when manifests or tokenizer are missing."""
    for dataset in (config.model.train_ds, config.model.validation_ds):
        manifest = Path(dataset.manifest_filepath)
        if not manifest.is_file():
            raise UserError(
                f"no training data at {manifest}: prepare KsponSpeech with "
                f"'python recipes/prepare_ksponspeech.py --corpus DIR --out {manifest.parent}', "
                "or run 'make demo' to see the whole recipe on a synthetic corpus"
            )
        # Audio in shards is found by NeMo's own loader; the manifest still says what they hold.
        validate_manifest(manifest, files_checked=0 if dataset.get("input_cfg") else FILES_CHECKED)
    for key, recipe in (
        ("noise_path", "prepare_noise.py"),
        ("rir_path", "prepare_noise.py"),
        ("input_cfg", "shard_manifest.py"),
    ):
        path = config.model.train_ds.get(key)
        if isinstance(path, str) and not Path(path).is_file():
            raise UserError(f"no file {path} (model.train_ds.{key}): write it with recipes/{recipe}")
    load(config.model.tokenizer.dir)


def check_feasibility(config: "DictConfig") -> TokenStatistics:
    """Print the share of training utterances that CTC cannot align; UserError above ``max_infeasible``."""
    encoder = config.model.encoder
    factor = encoder.subsampling_factor
    entries = read_manifest(config.model.train_ds.manifest_filepath)
    statistics = token_statistics(
        entries, load(config.model.tokenizer.dir), (factor,), encoder.causal_downsampling
    )
    print(
        f"CTC feasibility: {statistics.infeasible_share(factor):.2%} of {statistics.utterances} utterances "
        f"have more tokens than frames at {factor}x ({statistics.tokens_per_second:.1f} tokens/s, "
        f"{statistics.unknown_rate:.2%} unknown)",
        flush=True,
    )
    refuse_infeasible(statistics, factor, config.max_infeasible)
    return statistics


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


def _report_callback(config: "DictConfig"):
    """A Lightning callback that prints one line a validation, because a log file shows no progress bar."""
    import lightning.pytorch as pl

    class ReportValidation(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            metrics = trainer.callback_metrics
            # The metric is named val_wer whatever it counts; with use_cer it is the character error rate.
            rate = "CER" if config.model.get("use_cer") else "WER"
            if "val_wer" in metrics and not trainer.sanity_checking:
                print(
                    f"epoch {trainer.current_epoch}, step {trainer.global_step}: validation {rate} "
                    f"{float(metrics['val_wer']):.2%}, loss {float(metrics['val_loss']):.2f}",
                    flush=True,
                )

    return ReportValidation()


def train(config: "DictConfig") -> Path:
    """Train the model of ``config`` with NeMo and return the path of its .nemo.

    Checks the data first; continues where an interrupted run of the same name stopped. The best checkpoint
    by validation CER becomes ``experiments/NAME/checkpoints/NAME.nemo``.
    """
    check_data(config)
    statistics = check_feasibility(config)
    if config.trainer.accelerator == "cpu":
        # Must precede torch. Threads that spin at a barrier cost nothing on an idle machine, but beside any
        # other load a step was measured to take 8 s instead of 0.3 s.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    quiet_nemo()
    import lightning.pytorch as pl
    from nemo.collections.asr.models import EncDecCTCModelBPE
    from nemo.utils.exp_manager import exp_manager
    from nemo.utils.trainer_utils import resolve_trainer_cfg

    from ko_asr.resume import ResumeExactly, fix_data_order

    seed = config.model.train_ds.seed
    fix_data_order(config.model.train_ds)
    pl.seed_everything(seed, verbose=False)
    if not sys.stderr.isatty():
        config.trainer.enable_progress_bar = False
    callbacks = [_report_callback(config), ResumeExactly(seed)]
    trainer = pl.Trainer(**resolve_trainer_cfg(config.trainer), callbacks=callbacks)
    if config.model.train_ds.get("input_cfg") and isinstance(trainer.limit_train_batches, float):
        # Shards are an endless stream: an epoch is as many steps as the manifest's seconds fill.
        seconds = config.model.train_ds.batch_duration * trainer.world_size
        trainer.limit_train_batches = max(1, round(statistics.seconds / seconds))
    log_dir = Path(exp_manager(trainer, config.exp_manager))
    model = EncDecCTCModelBPE(cfg=config.model, trainer=trainer)
    model.maybe_init_from_pretrained_checkpoint(config)
    trainer.fit(model)
    return log_dir / "checkpoints" / f"{config.name}.nemo"
