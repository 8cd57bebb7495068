"""profile=true: where the time of a training step goes, as a table and as a trace to look into.

The phases are timed on the wall clock, with the device waited for at each border, over steps without the
profiler; the trace of the next few steps is PyTorch's own, whose recording costs time.
"""

import copy
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from omegaconf import open_dict

from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.training.checks import check_run
from ko_asr.training.train import MakeModel, train

if TYPE_CHECKING:
    from omegaconf import DictConfig

WARM_UP, TIMED, TRACED = 3, 10, 3  # steps
PHASES = ("data loading", "forward", "backward", "optimiser")
OPERATORS = 10  # rows of the table of operators


def profile(config: "DictConfig", make_model: MakeModel) -> None:
    """Train for a few steps on one device; write ``EXP_DIR/NAME/profile/`` trace.json and phases.json.

    trace.json is a Chrome trace (chrome://tracing, ui.perfetto.dev). Nothing else of the run is kept.
    """
    out = Path(config.exp_manager.exp_dir) / config.name / "profile"
    with tempfile.TemporaryDirectory(prefix="ko_asr_profile_") as folder:
        few = few_steps(config, folder)
        timer = PhaseTimer(Path(folder) / "trace.json", config.model.sample_rate)
        train(few, check_run(few), make_model, [timer])
        out.mkdir(parents=True, exist_ok=True)
        shutil.move(timer.trace, out / "trace.json")
    summary = summarise(timer.seconds, timer.audio_seconds)
    with atomic_write(out / "phases.json") as stream:
        about = {"config": config.name, **provenance(("torch", "nemo_toolkit", "lhotse"))}
        json.dump(summary | about, stream, ensure_ascii=False, indent=2)
    print_table(summary, timer.operators)
    print(f"wrote {out}/trace.json (open it in https://ui.perfetto.dev) and {out}/phases.json")


def few_steps(config: "DictConfig", folder: str) -> "DictConfig":
    """A copy of ``config`` that ends after the steps to profile and writes into ``folder``."""
    few = copy.deepcopy(config)
    with open_dict(few):
        few.profile = False
        few.feature_cache_mb = 0  # or the first epoch's cost would count as the loader's in all
        few.exp_manager.update(exp_dir=folder, create_checkpoint_callback=False)
        few.trainer.update(devices=1, num_nodes=1, accumulate_grad_batches=1, sync_batchnorm=False)
        few.trainer.update(max_steps=WARM_UP + TIMED + TRACED, limit_val_batches=0, enable_progress_bar=False)
    return few


def summarise(seconds: dict[str, list[float]], audio_seconds: float) -> dict[str, Any]:
    """Mean milliseconds a step and share by phase, and audio seconds trained a second."""
    means = {phase: sum(times) / len(times) for phase, times in seconds.items()}
    total = sum(means.values())
    return {
        "steps": TIMED,
        "step_ms": round(1000 * total, 2),
        "phase_ms": {phase: round(1000 * mean, 2) for phase, mean in means.items()},
        "phase_share": {phase: round(mean / total, 4) for phase, mean in means.items()},
        "audio_seconds_per_second": round(audio_seconds / (total * TIMED), 1),
    }


def print_table(summary: dict[str, Any], operators: str) -> None:
    """Print operators, then phases, which say whether the loader or the model is to be looked at."""
    print(operators)
    print(f"a step: {summary['step_ms']:.1f} ms (mean of {summary['steps']} after {WARM_UP} to warm up)")
    for phase, share in summary["phase_share"].items():
        print(f"  {phase:<14}{summary['phase_ms'][phase]:>9.1f} ms {share:>7.1%}")
    print(f"  {summary['audio_seconds_per_second']:.0f} seconds of audio a second")


class PhaseTimer(pl.Callback):
    """Times the phases of `TIMED` steps, then lets PyTorch's profiler write ``trace`` of the next ones.

    ``seconds`` holds the times of each phase, ``audio_seconds`` what was trained on in the timed steps, and
    ``operators`` the profiler's table once training has ended.
    """

    def __init__(self, trace: Path, sample_rate: int) -> None:
        self.trace, self.sample_rate = trace, sample_rate
        self.seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
        self.audio_seconds = 0.0
        self.operators = ""
        self.step = 0
        self.last = 0.0
        self.on_gpu = torch.cuda.is_available()
        activity = torch.profiler.ProfilerActivity
        self.profiler = torch.profiler.profile(
            activities=[activity.CPU, *([activity.CUDA] if self.on_gpu else [])]
        )
        self.label: torch.profiler.record_function | None = None

    @property
    def is_timed(self) -> bool:
        """True in the steps between warming up and tracing."""
        return WARM_UP <= self.step < WARM_UP + TIMED

    def mark(self, ended: str, begins: str) -> None:
        """Note the border between two phases."""
        if self.on_gpu:
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.is_timed:
            self.seconds[ended].append(now - self.last)
        self.last = now
        self._end_label()
        self.label = torch.profiler.record_function(begins)
        self.label.__enter__()

    def _end_label(self) -> None:
        if self.label is not None:
            self.label.__exit__(None, None, None)

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.last = time.perf_counter()

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.is_timed:
            self.audio_seconds += float(batch[1].sum()) / self.sample_rate
        self.mark("data loading", "forward")

    def on_before_backward(self, trainer: pl.Trainer, module: pl.LightningModule, loss: torch.Tensor) -> None:
        self.mark("forward", "backward")

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.mark("backward", "optimiser")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.mark("optimiser", "data loading")
        self.step += 1
        if self.step == WARM_UP + TIMED:
            self.profiler.start()

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._end_label()
        self.profiler.stop()
        self.profiler.export_chrome_trace(str(self.trace))
        by = "self_cuda_time_total" if self.on_gpu else "self_cpu_time_total"
        self.operators = self.profiler.key_averages().table(
            sort_by=by, row_limit=OPERATORS, max_name_column_width=40
        )
