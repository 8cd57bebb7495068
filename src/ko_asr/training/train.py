"""One training run around NeMo's own classes: trainer, record, model, fit, best checkpoint.

Import it as `ko_asr.training.run` does: after ``set_environment``, because it imports torch, and after
``quiet_nemo``, because NeMo has much to say while it is imported.
"""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.fabric.utilities.exceptions import MisconfigurationException
from nemo.collections.asr.models import EncDecCTCModelBPE
from nemo.utils.exp_manager import exp_manager
from nemo.utils.get_rank import is_global_rank_zero
from nemo.utils.trainer_utils import resolve_trainer_cfg

from ko_asr.errors import SaidByFirstProcess, UserError
from ko_asr.models.device import check_usable
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.text.feasibility import TokenStatistics
from ko_asr.training import readable
from ko_asr.training.callbacks import Recorder, ReportValidation, ValidateAtEnd, samples_of
from ko_asr.training.checkpoints import (
    AtomicCheckpointIO,
    check_free_space,
    first_error,
    tidy_checkpoints,
    write_best,
)
from ko_asr.training.checks import advise_batch, fill_buckets
from ko_asr.training.feature_cache import keep_features
from ko_asr.training.memory import check_memory, peak_bytes
from ko_asr.training.nonfinite import StopOnNonFiniteLoss
from ko_asr.training.record import RunRecord, attach_tracker
from ko_asr.training.resume import ResumeExactly, fix_data_order
from ko_asr.training.start import check_checkpoint, load_sources
from ko_asr.training.step_cost import CheaperSteps

if TYPE_CHECKING:
    from omegaconf import DictConfig

MakeModel = Callable[["DictConfig", pl.Trainer], NemoCtc]

_CPU_KEYS = "trainer.accelerator=cpu trainer.devices=1 trainer.precision=32"


def new_model(config: "DictConfig", trainer: pl.Trainer) -> NemoCtc:
    """The model of ``config``, from scratch or with the weights that ``init_from_nemo_model`` names."""
    model = EncDecCTCModelBPE(cfg=config.model, trainer=trainer)
    load_sources(model, config)
    return model


def train(
    config: "DictConfig",
    statistics: TokenStatistics,
    make_model: MakeModel = new_model,
    callbacks: Sequence[pl.Callback] = (),
) -> Path | None:
    """Train the model that ``make_model(config, trainer)`` gives and return the path of its .nemo.

    ``statistics`` are those of ``check_run(config)``. Continues where an interrupted run of the same name
    stopped. The best checkpoint by validation CER becomes ``experiments/NAME/checkpoints/NAME.nemo``; None
    while there is more to train, because ``max_time_per_run`` ended this start.
    """
    trainer = setup_trainer(config, statistics, callbacks)
    advise_batch(config, statistics, trainer.world_size)
    log_dir = setup_folder(config, trainer)
    record = setup_record(config, trainer, log_dir)
    model = setup_model(config, trainer, make_model, log_dir)
    estimated = setup_memory(config, trainer, model, statistics)
    unreadable = log_dir / "run" / readable.FILE
    readable.name_unreadable(model, unreadable)
    fit(trainer, cast(pl.LightningModule, model))  # a NemoCtc is one
    if trainer.is_global_zero:
        peak = peak_bytes(_device(trainer) == "cuda")
        record.remember(memory={"estimated_bytes": estimated, "peak_bytes": peak})
        readable.report_unreadable(unreadable)
    for process in getattr(trainer.strategy.launcher, "procs", ()):
        process.wait()  # a command that has ended has no process left
    if record.has_started and not record.has_finished:
        print(f"stopped at step {trainer.global_step}, max_time_per_run is over: the same command goes on")
        return None
    nemo = log_dir / "checkpoints" / f"{config.name}.nemo"
    if trainer.is_global_zero and (record.has_finished or not nemo.is_file()):
        write_best(trainer, model, nemo, is_best=record.has_finished)
    return nemo


# ---- the trainer and its data -------------------------------------------------------------------------


def setup_trainer(
    config: "DictConfig", statistics: TokenStatistics, callbacks: Sequence[pl.Callback]
) -> pl.Trainer:
    """The Lightning trainer of ``config``, with this project's own callbacks before ``callbacks``.

    UserError when the trainer's keys do not fit this machine.
    """
    if config.trainer.accelerator != "cpu":
        check_usable(_CPU_KEYS)
    setup_data(config.model.train_ds)
    if not sys.stderr.isatty():
        config.trainer.enable_progress_bar = False
    trainer = _make_trainer(config, [*own_callbacks(config), *callbacks])
    if trainer.world_size > 1 and _is_multirun():
        raise UserError(
            "--multirun trains one model after another in one process, which can start those of other "
            "devices only once: add trainer.devices=1, or give each choice a command of its own"
        )
    _bound_epoch(trainer, config.model.train_ds, statistics.seconds)
    return trainer


def setup_data(train_ds: "DictConfig") -> None:
    """Fix what the batches of a ``train_ds`` config will be, in which order, and what augmentation draws."""
    fill_buckets(train_ds)
    fix_data_order(train_ds)
    pl.seed_everything(train_ds.seed, verbose=False)


def own_callbacks(config: "DictConfig") -> list[pl.Callback]:
    """The callbacks of every run."""
    train_ds = config.model.train_ds
    return [
        ReportValidation(bool(config.model.get("use_cer"))),
        ResumeExactly(train_ds.seed),
        StopOnNonFiniteLoss(config.max_nonfinite_losses, train_ds.manifest_filepath),
        CheaperSteps(),
        ValidateAtEnd(),
    ]


def _make_trainer(config: "DictConfig", callbacks: list[pl.Callback]) -> pl.Trainer:
    keys = resolve_trainer_cfg(config.trainer)
    try:
        return pl.Trainer(**keys, callbacks=callbacks, plugins=[AtomicCheckpointIO()])
    except (MisconfigurationException, TypeError) as error:  # such as no GPU where the config asks for all
        raise UserError(
            f"the trainer's keys do not fit this machine ({str(error).splitlines()[0]}); without a GPU: "
            f"{_CPU_KEYS}"
        ) from error


def _is_multirun() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def _bound_epoch(trainer: pl.Trainer, train_ds: "DictConfig", seconds: float) -> None:
    """Let an epoch of shards, an endless stream, be as many steps as the manifest's ``seconds`` fill."""
    if train_ds.get("input_cfg") and isinstance(trainer.limit_train_batches, float):
        step = train_ds.batch_duration * trainer.world_size
        trainer.limit_train_batches = max(1, round(seconds / step))


def _device(trainer: pl.Trainer) -> str:
    """The kind of device that the trainer computes on: cpu or cuda."""
    return trainer.strategy.root_device.type


# ---- the run's folder and record ----------------------------------------------------------------------


def setup_folder(config: "DictConfig", trainer: pl.Trainer) -> Path:
    """The run's folder, with the checkpoint to resume from chosen by NeMo and broken ones removed before."""
    tidy_checkpoints(Path(config.exp_manager.exp_dir) / config.name / "checkpoints")
    return Path(exp_manager(trainer, config.exp_manager))


def setup_record(config: "DictConfig", trainer: Any, log_dir: Path) -> RunRecord:
    """Note the start of a run, and add its tracker and the callback that records it to the trainer."""
    record = RunRecord(log_dir)
    is_first = is_global_rank_zero()  # Lightning knows its rank only once it fits
    if is_first:
        for changed in record.start(config):
            print(f"warning: {changed} is not the same as when this run last started", flush=True)
    attach_tracker(trainer, config, record, is_first)
    # Before the checkpoints: a validation whose checkpoint fails has still been recorded.
    trainer.callbacks.insert(0, Recorder(record, samples_of(config.model.validation_ds.manifest_filepath)))
    return record


# ---- the model ----------------------------------------------------------------------------------------


def setup_model(config: "DictConfig", trainer: pl.Trainer, make_model: MakeModel, log_dir: Path) -> NemoCtc:
    """The model to fit; UserError when the checkpoint is not its own, or the disk too full for new ones."""
    model = make_model(config, trainer)
    check_checkpoint(trainer.ckpt_path, model)
    check_free_space(log_dir, model, config.exp_manager.checkpoint_callback_params.save_top_k)
    return model


def setup_memory(
    config: "DictConfig", trainer: pl.Trainer, model: NemoCtc, statistics: TokenStatistics
) -> float:
    """Bytes that a step will need, which the device must have (UserError); features are kept if they fit."""
    needed = check_memory(model, config, statistics.longest, on_gpu=_device(trainer) == "cuda")
    keep_features(model, config, statistics.seconds, on_cpu=_device(trainer) == "cpu")
    return needed.total


# ---- the fit ------------------------------------------------------------------------------------------


def fit(trainer: pl.Trainer, model: pl.LightningModule) -> None:
    """Train until the trainer's limits; SystemExit, with a word, when it is stopped from outside.

    UserError, of a loader's process as well, for what the user can mend.
    """
    try:
        with _explain_stop(trainer), first_error():
            trainer.fit(model)
    except UserError as error:
        raise readable.sentence_of_worker(error) from error


@contextlib.contextmanager
def _explain_stop(trainer: Any) -> Iterator[None]:
    """Let Ctrl-C and a scheduler's SIGTERM end with a word and their own exit status: 130 and 143.

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
