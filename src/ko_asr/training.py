"""What every training run does around NeMo's own classes: checks first, then a quiet, resumable fit."""

import contextlib
import logging
import math
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ko_asr.errors import SaidByFirstProcess, UserError
from ko_asr.experiment import begin, check_tracker
from ko_asr.feasibility import TokenStatistics, refuse_infeasible, refuse_unknown, token_statistics
from ko_asr.gpu import check_usable
from ko_asr.manifest import read_manifest
from ko_asr.manifest_schema import validate_manifest
from ko_asr.nonfinite import nonfinite_stop
from ko_asr.starting_weights import check_checkpoint, check_sources, load_sources
from ko_asr.tokenizer import load

if TYPE_CHECKING:
    from lightning.pytorch import Callback
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
        validate_manifest(manifest, check_audio=not dataset.get("input_cfg"))
    for key, recipe in (
        ("noise_path", "prepare_noise.py"),
        ("rir_path", "prepare_noise.py"),
        ("input_cfg", "shard_manifest.py"),
    ):
        path = config.model.train_ds.get(key)
        if isinstance(path, str) and not Path(path).is_file():
            raise UserError(f"no file {path} (model.train_ds.{key}): write it with recipes/{recipe}")
    load(config.model.tokenizer.dir)
    check_sources(config)


def check_feasibility(config: "DictConfig") -> TokenStatistics:
    """Print how tokens and frames go together; UserError above ``max_infeasible`` or ``max_unknown``."""
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
    refuse_unknown(statistics, config.max_unknown, config.model.tokenizer.dir)
    refuse_infeasible(statistics, factor, config.max_infeasible, base_model=config.get("base_model"))
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


def new_model(config: "DictConfig", trainer: Any) -> Any:
    """The model of ``config``, from scratch or with the weights that ``init_from_nemo_model`` names."""
    from nemo.collections.asr.models import EncDecCTCModelBPE

    model = EncDecCTCModelBPE(cfg=config.model, trainer=trainer)
    load_sources(model, config)
    return model


def advise_batch(config: "DictConfig", statistics: TokenStatistics, devices: int) -> None:
    """Print how many utterances a step of the optimiser sees, and what to set when they are too few."""
    train_ds, accumulated = config.model.train_ds, config.trainer.accumulate_grad_batches
    if not train_ds.get("batch_duration"):
        return
    utterances = train_ds.batch_duration * devices * statistics.utterances / statistics.seconds
    said = f"a step sees about {utterances * accumulated:.0f} utterances"
    if utterances * accumulated < config.advised_batch:
        enough = math.ceil(config.advised_batch / utterances)
        said += f", fewer than the {config.advised_batch} advised: trainer.accumulate_grad_batches={enough}"
    print(said, flush=True)


def fill_buckets(dataset: "DictConfig") -> None:
    """Bucket edges that hold equal seconds of the manifest, where the ``train_ds`` config gives none.

    NeMo's default spaces them evenly up to ``max_duration``, so that clips of 2 to 5 s with a limit of 20 s
    share two buckets of six, and batches are as padded as without any.
    """
    from omegaconf import open_dict

    from ko_asr.shards import bucket_duration_bins

    if not dataset.get("use_bucketing") or dataset.get("bucket_duration_bins"):
        return
    durations = np.array([entry["duration"] for entry in read_manifest(dataset.manifest_filepath)])
    shortest, longest = dataset.get("min_duration") or 0.0, dataset.get("max_duration") or np.inf
    kept = durations[(durations >= shortest) & (durations <= longest)]
    if bins := bucket_duration_bins(kept, dataset.num_buckets) if len(kept) else []:
        with open_dict(dataset):
            dataset.bucket_duration_bins = bins


def _is_multirun() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def _trainer(config: "DictConfig", statistics: TokenStatistics, callbacks: "Sequence[Callback]") -> Any:
    """The Lightning trainer of ``config``, with this project's own callbacks before ``callbacks``."""
    import lightning.pytorch as pl
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from nemo.utils.trainer_utils import resolve_trainer_cfg

    from ko_asr.checkpoints import AtomicCheckpointIO
    from ko_asr.resume import ResumeExactly, fix_data_order
    from ko_asr.step_cost import CheaperSteps

    if config.trainer.accelerator != "cpu":
        check_usable("trainer.accelerator=cpu trainer.devices=1 trainer.precision=32")
    train_ds = config.model.train_ds
    fill_buckets(train_ds)
    fix_data_order(train_ds)
    pl.seed_everything(train_ds.seed, verbose=False)
    if not sys.stderr.isatty():
        config.trainer.enable_progress_bar = False
    own = [
        _report_callback(config),
        ResumeExactly(train_ds.seed),
        nonfinite_stop(config.max_nonfinite_losses, train_ds.manifest_filepath),
        CheaperSteps(),
    ]
    try:
        trainer = pl.Trainer(
            **resolve_trainer_cfg(config.trainer),
            callbacks=[*own, *callbacks],
            plugins=[AtomicCheckpointIO()],
        )
    except (MisconfigurationException, TypeError) as error:  # such as no GPU where the config asks for all
        raise UserError(
            f"the trainer's keys do not fit this machine ({str(error).splitlines()[0]}); without a GPU: "
            "trainer.accelerator=cpu trainer.devices=1 trainer.precision=32"
        ) from error
    if trainer.world_size > 1 and _is_multirun():
        raise UserError(
            "--multirun trains one model after another in one process, which can start those of other "
            "devices only once: add trainer.devices=1, or give each choice a command of its own"
        )
    if train_ds.get("input_cfg") and isinstance(trainer.limit_train_batches, float):
        # Shards are an endless stream: an epoch is as many steps as the manifest's seconds fill.
        seconds = train_ds.batch_duration * trainer.world_size
        trainer.limit_train_batches = max(1, round(statistics.seconds / seconds))
    return trainer


@contextlib.contextmanager
def _said_when_stopped(trainer: Any) -> Iterator[None]:
    """Ctrl-C and a scheduler's SIGTERM end with a word and their own exit status: 130 and 143.

    Lightning and NeMo end the process without a word, after SIGTERM as if the training were complete. Of the
    processes that the first one has started none is left behind, to complain that their peer is gone.
    """
    try:
        yield
    except BaseException as error:
        if (launcher := trainer.strategy.launcher) is not None:
            launcher.kill(signal.SIGKILL)
            launcher.procs.clear()  # a thread that sees one of them killed would kill this process, too
        if not isinstance(error, SystemExit) or isinstance(error, SaidByFirstProcess):
            raise
        by, status = ("Ctrl-C", 130) if error.code else ("SIGTERM", 143)
        print(f"stopped at step {trainer.global_step} by {by}: the same command goes on", flush=True)
        raise SystemExit(status) from None


def train(
    config: "DictConfig",
    make_model: Callable[["DictConfig", Any], Any] = new_model,
    callbacks: "Sequence[Callback]" = (),
) -> Path | None:
    """Train the model that ``make_model(config, trainer)`` gives and return the path of its .nemo.

    Checks the data first; continues where an interrupted run of the same name stopped. The best checkpoint
    by validation CER becomes ``experiments/NAME/checkpoints/NAME.nemo``. With ``debug`` or ``profile`` in
    the config it does what they say instead, and returns None, as when ``max_time_per_run`` ends it.
    """
    if config.debug or config.profile:
        from ko_asr.profiling import profile
        from ko_asr.start_small import debug

        (debug if config.debug else profile)(config, make_model)
        return None
    check_tracker(config)
    check_data(config)
    statistics = check_feasibility(config)
    if config.trainer.accelerator == "cpu":
        # Must precede torch. Threads that spin at a barrier cost nothing on an idle machine, but beside any
        # other load a step was measured to take 8 s instead of 0.3 s. Where they sleep at once, a
        # step takes 428 ms instead of 294 on an idle one; microseconds of spinning have neither fault.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    quiet_nemo()
    from nemo.utils.exp_manager import exp_manager

    from ko_asr.checkpoints import check_free_space, first_error, tidy_checkpoints, write_best
    from ko_asr.feature_cache import keep_features
    from ko_asr.memory_estimate import check_memory, peak_bytes

    trainer = _trainer(config, statistics, callbacks)
    advise_batch(config, statistics, trainer.world_size)
    tidy_checkpoints(Path(config.exp_manager.exp_dir) / config.name / "checkpoints")
    log_dir = Path(exp_manager(trainer, config.exp_manager))
    record = begin(trainer, config, log_dir)
    model = make_model(config, trainer)
    check_checkpoint(trainer.ckpt_path, model)
    check_free_space(log_dir, model, config.exp_manager.checkpoint_callback_params.save_top_k)
    on_gpu = trainer.strategy.root_device.type == "cuda"
    needed = check_memory(model, config, statistics.longest, on_gpu)
    keep_features(model, config, statistics.seconds, trainer.strategy.root_device.type == "cpu")
    with _said_when_stopped(trainer), first_error():
        trainer.fit(model)
    nemo = log_dir / "checkpoints" / f"{config.name}.nemo"
    if trainer.is_global_zero:
        record.remember(memory={"estimated_bytes": needed.total, "peak_bytes": peak_bytes(on_gpu)})
    for process in getattr(trainer.strategy.launcher, "procs", ()):
        process.wait()  # a command that has ended has no process left
    if record.has_started and not record.has_finished:
        print(f"stopped at step {trainer.global_step}, max_time_per_run is over: the same command goes on")
        return None
    if trainer.is_global_zero and (record.has_finished or not nemo.is_file()):
        write_best(trainer, model, nemo, is_best=record.has_finished)
    return nemo
