"""What every training run does around NeMo's own classes: checks first, then a quiet, resumable fit."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_asr.errors import SaidByFirstProcess, UserError
from ko_asr.models.device import check_usable
from ko_asr.models.nemo_file import quiet_nemo
from ko_asr.text.feasibility import TokenStatistics
from ko_asr.training.callbacks import report_callback
from ko_asr.training.checks import advise_batch, check_data, check_feasibility, fill_buckets
from ko_asr.training.nonfinite import nonfinite_stop
from ko_asr.training.record import begin, check_tracker
from ko_asr.training.start import check_checkpoint, load_sources

if TYPE_CHECKING:
    from lightning.pytorch import Callback
    from omegaconf import DictConfig


def new_model(config: "DictConfig", trainer: Any) -> Any:
    """The model of ``config``, from scratch or with the weights that ``init_from_nemo_model`` names."""
    from nemo.collections.asr.models import EncDecCTCModelBPE

    model = EncDecCTCModelBPE(cfg=config.model, trainer=trainer)
    load_sources(model, config)
    return model


def _is_multirun() -> bool:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    return HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN


def _trainer(config: "DictConfig", statistics: TokenStatistics, callbacks: "Sequence[Callback]") -> Any:
    """The Lightning trainer of ``config``, with this project's own callbacks before ``callbacks``."""
    import lightning.pytorch as pl
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from nemo.utils.trainer_utils import resolve_trainer_cfg

    from ko_asr.training.checkpoints import AtomicCheckpointIO
    from ko_asr.training.resume import ResumeExactly, fix_data_order
    from ko_asr.training.step_cost import CheaperSteps

    if config.trainer.accelerator != "cpu":
        check_usable("trainer.accelerator=cpu trainer.devices=1 trainer.precision=32")
    train_ds = config.model.train_ds
    fill_buckets(train_ds)
    fix_data_order(train_ds)
    pl.seed_everything(train_ds.seed, verbose=False)
    if not sys.stderr.isatty():
        config.trainer.enable_progress_bar = False
    own = [
        report_callback(config),
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
    by validation CER becomes ``experiments/NAME/checkpoints/NAME.nemo``. None when ``max_time_per_run`` ended
    it.
    """
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

    from ko_asr.training.checkpoints import check_free_space, first_error, tidy_checkpoints, write_best
    from ko_asr.training.feature_cache import keep_features
    from ko_asr.training.memory import check_memory, peak_bytes

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
