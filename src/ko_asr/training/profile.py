"""profile=true: where the time of a training step goes, as a table and as a trace to look into.

The phases are timed on the wall clock, with the device waited for at each border, over steps without the
profiler; the trace of the next few steps is PyTorch's own, whose recording costs time.
"""

import copy
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.training.train import train

if TYPE_CHECKING:
    from omegaconf import DictConfig

WARM_UP, TIMED, TRACED = 3, 10, 3  # steps
PHASES = ("data loading", "forward", "backward", "optimiser")
OPERATORS = 10  # rows of the table of operators


def profile(config: "DictConfig", make_model: Callable) -> None:
    """Train for a few steps on one device; write ``EXP_DIR/NAME/profile/`` trace.json and phases.json.

    trace.json is a Chrome trace (chrome://tracing, ui.perfetto.dev). Nothing else of the run is kept.
    """
    from omegaconf import open_dict

    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its start and stop are no news
    out = Path(config.exp_manager.exp_dir) / config.name / "profile"
    small = copy.deepcopy(config)
    with tempfile.TemporaryDirectory(prefix="ko_asr_profile_") as folder:
        with open_dict(small):
            small.profile = False
            small.feature_cache_mb = 0  # or the first epoch's cost would count as the loader's in all
            small.exp_manager.update(exp_dir=folder, create_checkpoint_callback=False)
            small.trainer.update(
                devices=1, num_nodes=1, max_steps=WARM_UP + TIMED + TRACED, limit_val_batches=0,
                accumulate_grad_batches=1, sync_batchnorm=False, enable_progress_bar=False,
            )  # fmt: skip
        watch = _timer(Path(folder) / "trace.json", config.model.sample_rate)
        train(small, make_model, [watch])
        out.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(folder) / "trace.json", out / "trace.json")
    summary = summarise(watch.seconds, watch.audio_seconds)
    with atomic_write(out / "phases.json") as stream:
        about = {"config": config.name, **provenance(("torch", "nemo_toolkit", "lhotse"))}
        json.dump(summary | about, stream, ensure_ascii=False, indent=2)
    print_table(summary, watch.operators)
    print(f"wrote {out}/trace.json (open it in https://ui.perfetto.dev) and {out}/phases.json")


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
    """Phases first: they say whether the loader or the model is to be looked at."""
    print(operators)
    print(f"a step: {summary['step_ms']:.1f} ms (mean of {summary['steps']} after {WARM_UP} to warm up)")
    for phase, share in summary["phase_share"].items():
        print(f"  {phase:<14}{summary['phase_ms'][phase]:>9.1f} ms {share:>7.1%}")
    print(f"  {summary['audio_seconds_per_second']:.0f} seconds of audio a second")


def _timer(trace: Path, sample_rate: int) -> Any:
    """The Lightning callback that times the phases, then lets PyTorch's profiler write ``trace``."""
    import lightning.pytorch as pl
    import torch

    class Timer(pl.Callback):
        def __init__(self) -> None:
            self.seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
            self.audio_seconds = 0.0
            self.operators = ""
            self.step = 0
            self.last = 0.0
            activities = [torch.profiler.ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(torch.profiler.ProfilerActivity.CUDA)
            self.profiler = torch.profiler.profile(activities=activities)
            self.label: Any = None

        def mark(self, ended: str, begins: str) -> None:
            """The border between two phases."""
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now = time.perf_counter()
            if WARM_UP <= self.step < WARM_UP + TIMED:
                self.seconds[ended].append(now - self.last)
            self.last = now
            if self.label is not None:
                self.label.__exit__(None, None, None)
            self.label = torch.profiler.record_function(begins)
            self.label.__enter__()

        def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.last = time.perf_counter()

        def on_train_batch_start(
            self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if WARM_UP <= self.step < WARM_UP + TIMED:
                self.audio_seconds += float(batch[1].sum()) / sample_rate
            self.mark("data loading", "forward")

        def on_before_backward(
            self, trainer: pl.Trainer, module: pl.LightningModule, loss: torch.Tensor
        ) -> None:
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
            if self.label is not None:
                self.label.__exit__(None, None, None)
            self.profiler.stop()
            self.profiler.export_chrome_trace(str(trace))
            by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
            self.operators = self.profiler.key_averages().table(
                sort_by=by, row_limit=OPERATORS, max_name_column_width=40
            )

    return Timer()
