"""Compare an epoch of the demo recipe with one of plain NeMo and its legacy loader, on one machine.

    python bench/data_loading.py --data data/demo --tokenizer tokenizers/demo       # made by make demo

Ours is recipes/train_ctc.py with conf/fastconformer_ko_demo.yaml as it stands: Lhotse buckets by duration, a
process for each of two cores, and what the recipe sets around them. The peer is NeMo's own fifteen lines
(trainer, model, fit) with the same model and optimiser and use_lhotse=false: AudioToBPEDataset, clips in
random order, each batch padded to its longest, one process with a thread for each core. Its batch_size is our
mean number of clips a step, so that a step of both holds the same speech; it writes no logs and no
checkpoints, and threads wait for each other in the same way in both, so that other load hurts neither more.
Imports, model building and the first steps are not counted; validation is not either. With --devices 1 ours
trains in one process, too.

Seconds an epoch are those of the timed steps, for all of the audio. Rounds alternate and the best counts.
The first epoch fills our cache of log-mel features, the others are quicker: a run of one epoch shows nothing
of it. With --epochs 6 --rounds 1, as many as the demo trains, both learn enough for the dev CER, which is
printed, to be compared (12 minutes).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import cpu_seconds

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.training.config import is_first_rank

ROOT = Path(__file__).resolve().parents[1]
WARM_UP = 10  # steps
RECIPES = ("ours", "legacy")
THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}  # as ko_asr.training.environment
TITLES = {"ours": "fastconformer_ko_demo", "legacy": "plain NeMo, legacy loader"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and dev.jsonl")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of a tokenizer for 4x")
    parser.add_argument(
        "--epochs", type=int, default=1, help="to train; above 1 with the dev CER (default 1)"
    )
    parser.add_argument("--rounds", type=int, default=2, help="of each recipe, alternating (default 2)")
    parser.add_argument("--steps", type=int, default=0, help="stop each epoch after so many (default: all)")
    parser.add_argument("--devices", type=int, help="processes of ours (default: the recipe's)")
    parser.add_argument("--legacy-workers", type=int, default=0, help="loader processes of the peer")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/data_loading.json")
    parser.add_argument("--work", choices=RECIPES, help=argparse.SUPPRESS)
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.epochs < 1 or args.rounds < 1:
        parser.error("--epochs and --rounds must be at least 1")
    return args


def stopwatch() -> Any:
    """Make a Lightning callback that sums time, clips and audio over the steps after the first few epochs.

    CPU seconds are those of this process and its children: loader processes, and the run's other ranks.
    """
    import lightning.pytorch as pl
    import torch

    from ko_asr.training.feature_cache import batch_seconds

    class Stopwatch(pl.Callback):
        def __init__(self) -> None:
            self.seconds = self.cpu = self.audio = self.padded = 0.0
            self.steps = self.clips = self.total_steps = 0
            self.mark = (0.0, 0.0)
            self.cer: float | None = None

        def on_train_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            self.mark = (time.perf_counter(), cpu_seconds([os.getpid()]))

        def on_train_batch_end(
            self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            now, before = (time.perf_counter(), cpu_seconds([os.getpid()])), self.mark
            self.mark, self.total_steps = now, self.total_steps + 1
            if self.total_steps <= WARM_UP:
                return
            self.seconds += now[0] - before[0]
            self.cpu += now[1] - before[1]
            self.steps += 1
            self.clips += len(batch[1])
            seconds, padded = batch_seconds(batch, 16_000)
            self.audio += float(seconds.sum())
            self.padded += padded

        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            sums = torch.tensor([self.clips, self.audio, self.padded], dtype=torch.float64)
            self.clips, self.audio, self.padded = trainer.strategy.reduce(sums, reduce_op="sum").tolist()

        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if "val_wer" in trainer.callback_metrics:
                self.cer = float(trainer.callback_metrics["val_wer"])

    return Stopwatch()


def config_for(args: argparse.Namespace) -> Any:
    """Return the demo recipe's config on the given data, with the end and schedule of both recipes."""
    from hydra import compose, initialize_config_dir
    from omegaconf import open_dict

    seconds = sum(entry["duration"] for entry in read_manifest(args.data / "train.jsonl"))
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("fastconformer_ko_demo", overrides=[
            f"data.dir={args.data.resolve()}", f"data.tokenizer={args.tokenizer.resolve()}",
            "trainer.max_steps=-1", f"trainer.max_epochs={args.epochs}", f"exp_manager.exp_dir={args.folder}",
            f"+trainer.limit_train_batches={args.steps or 1.0}",
            f"+trainer.limit_val_batches={1.0 if args.epochs > 1 else 0}",
        ])  # fmt: skip
    step_seconds = config.model.train_ds.batch_duration * config.trainer.devices
    steps = seconds / step_seconds * args.epochs
    with open_dict(config):
        config.trainer.devices = (args.devices if args.work == "ours" else 1) or config.trainer.devices
        config.model.train_ds.batch_duration = step_seconds / config.trainer.devices
        config.model.optim.sched.max_steps = max(round(steps), 200)
    return config


def train_ours(config: Any, watch: Any) -> None:
    from ko_asr.models.nemo_file import quiet_nemo
    from ko_asr.training.checks import check_run

    quiet_nemo()
    from ko_asr.training.train import train

    config.exp_manager.create_checkpoint_callback = config.trainer.limit_val_batches != 0
    train(config, check_run(config), callbacks=[watch])


def train_legacy(config: Any, watch: Any, batch_size: int, workers: int) -> None:
    """Train NeMo's own example, without its experiment manager."""
    import lightning.pytorch as pl
    from nemo.collections.asr.models import EncDecCTCModelBPE
    from omegaconf import open_dict

    from ko_asr.models.nemo_file import quiet_nemo

    quiet_nemo()
    with open_dict(config):
        for name in ("train_ds", "validation_ds"):
            config.model[name] = {
                "manifest_filepath": config.model[name].manifest_filepath, "sample_rate": 16_000,
                "batch_size": batch_size, "shuffle": name == "train_ds", "num_workers": workers,
                "use_lhotse": False, "min_duration": 0.3, "max_duration": 20.0,
            }  # fmt: skip
        config.trainer.update(enable_progress_bar=False, strategy="auto")
    pl.seed_everything(1234, verbose=False)
    trainer = pl.Trainer(**config.trainer, callbacks=[watch])
    trainer.fit(EncDecCTCModelBPE(cfg=config.model, trainer=trainer))


def work(args: argparse.Namespace) -> None:
    """Train one recipe and write what the stopwatch read to ``--out``."""
    watch, config = stopwatch(), config_for(args)
    if args.work == "ours":
        train_ours(config, watch)
    else:
        train_legacy(config, watch, args.batch_size, args.legacy_workers)
    if is_first_rank(os.environ):
        names = ("seconds", "cpu", "audio", "padded", "steps", "clips", "cer")
        with atomic_write(args.out) as stream:
            json.dump({name: getattr(watch, name) for name in names}, stream)


def measure(recipe: str, args: argparse.Namespace, batch_size: int) -> dict:
    """Measure one round of a recipe in processes of its own."""
    with tempfile.TemporaryDirectory(prefix="data_loading_") as folder:
        out = Path(folder) / "round.json"
        command = [
            sys.executable,
            __file__,
            "--work",
            recipe,
            "--out",
            out,
            "--folder",
            folder,
            "--batch-size",
            str(batch_size),
        ]
        for name in ("data", "tokenizer", "epochs", "steps", "devices", "legacy_workers"):
            if getattr(args, name) is not None:
                command += [f"--{name.replace('_', '-')}", str(getattr(args, name))]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=os.environ | THREADS)
        if done.returncode:
            raise UserError(f"{TITLES[recipe]} failed:\n{done.stderr[-3000:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def figures(rounds: list[dict], total: float) -> dict:
    """Return the figures of the fastest round, an epoch being ``total`` seconds of audio."""
    best = min(rounds, key=lambda found: found["seconds"] / found["audio"])
    return {
        "epoch_seconds": round(best["seconds"] / best["audio"] * total, 2),
        "epoch_cpu_seconds": round(min(found["cpu"] / found["audio"] for found in rounds) * total, 2),
        "step_ms": round(1000 * best["seconds"] / best["steps"], 1),
        "timed_steps": best["steps"],
        "clips_per_step": round(best["clips"] / best["steps"], 2),
        "audio_seconds_per_step": round(best["audio"] / best["steps"], 2),
        "padding": round(1 - best["audio"] / best["padded"], 4),
        "dev_cer": best["cer"],
    }


def main() -> None:
    args = arguments()
    if args.work:
        return work(args)
    rounds: dict[str, list[dict]] = {recipe: [] for recipe in RECIPES}
    total = sum(entry["duration"] for entry in read_manifest(args.data / "train.jsonl"))
    size = 0
    for number in range(args.rounds):
        for recipe in RECIPES:
            print(f"round {number + 1} of {args.rounds}: {TITLES[recipe]}", flush=True)
            rounds[recipe].append(measure(recipe, args, size))
            size = size or round(rounds["ours"][0]["clips"] / rounds["ours"][0]["steps"])
    found = {recipe: figures(rounds[recipe], total) for recipe in RECIPES}
    ratios = {
        key: round(found["legacy"][key] / found["ours"][key], 3)
        for key in ("epoch_seconds", "epoch_cpu_seconds")
    }
    result = {
        "corpus": f"synthetic, {total / 3600:.2f} h",
        "legacy_batch_size": size,
        **found,
        "ratio": ratios,
        "load_average": [round(load, 1) for load in os.getloadavg()],
    } | provenance(("nemo_toolkit", "torch", "lhotse"))
    print(f"\n{'':<40}{'s/epoch':>9}{'CPU s':>9}{'ms/step':>9}{'padding':>9}{'dev CER':>9}")
    for recipe, row in found.items():
        cer = "-" if row["dev_cer"] is None else f"{row['dev_cer']:.2%}"
        print(
            f"{TITLES[recipe]:<40}{row['epoch_seconds']:>9.1f}{row['epoch_cpu_seconds']:>9.1f}"
            f"{row['step_ms']:>9.1f}{row['padding']:>9.1%}{cer:>9}"
        )
    print(f"ratio: {ratios['epoch_seconds']:.2f} of wall time, {ratios['epoch_cpu_seconds']:.2f} of CPU time")
    with atomic_write(args.out) as stream:
        json.dump(result, stream, ensure_ascii=False, indent=1)
    print(f"wrote {args.out}")
    return None


if __name__ == "__main__":
    run_main(main)
