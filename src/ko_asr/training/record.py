"""What a run leaves behind so that it can be explained later, in experiments/NAME/run/.

config.yaml    the resolved configuration of the last start
run.json       every start of the run: command, commit, machine, versions, hashes of manifests and tokenizer
curve.jsonl    one line a validation: step, epoch, CER, losses, learning rate, seconds since the start
samples.jsonl  one line a validation: reference and hypothesis of the same few dev utterances

TensorBoard is always written; ``tracker=wandb`` or ``tracker=mlflow`` adds another.
"""

import hashlib
import importlib.util
import json
import netrc
import os
import re
import subprocess
import time
import uuid
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance, sha256

if TYPE_CHECKING:
    from omegaconf import DictConfig

PACKAGES = ("torch", "nemo_toolkit", "lightning", "lhotse", "sentencepiece", "numpy", "hydra-core")
SAMPLES = 5  # dev utterances shown at each validation
# What may change while the run stays the same one: where and how long it trains, what it writes.
_NOT_NAMED = re.compile(
    r"name$|debug|profile|tracker|hydra|exp_manager|max_|advised_batch|data\.|model\.validation_ds"
    r"|model\.train_ds\.(manifest_filepath|num_workers|pin_memory|input_cfg)"
    r"|trainer\.(?!accumulate_grad_batches|precision)"
)
_LONGEST_NAME = 150  # a checkpoint's file name adds its score to the run's, and 255 bytes are the limit


def run_name(name: str, overrides: Iterable[str]) -> str:
    """``name`` with the overrides that make it another run, for a folder of its own.

    Keys of where and how long to train are left out, so that a longer or wider run continues the same one.
    No "=", which Hydra would want quoted wherever the path is given again.

    >>> run_name("fastconformer_ko", ["size=s", "model.optim.lr=5e-4", "trainer.devices=4"])
    'fastconformer_ko-size_s-lr_5e-4'
    >>> run_name("fastconformer_ko", ["size=s", "name=mine"])
    'fastconformer_ko'
    """
    pairs = [override.partition("=")[::2] for override in overrides]
    if any(key == "name" for key, _ in pairs):
        return name
    parts = [
        f"{key.lstrip('+~').rsplit('.', 1)[-1]}_{Path(value).name}"
        for key, value in sorted(pairs, key=lambda pair: (pair[0].count("."), pair))  # groups first
        if not _NOT_NAMED.match(key.lstrip("+~"))
    ]
    full = "-".join([name, *(re.sub(r"[^\w.,+-]", "", part) for part in parts)])
    if len(full.encode()) <= _LONGEST_NAME:
        return full
    return f"{name}-{hashlib.sha256(full.encode()).hexdigest()[:10]}"


def check_tracker(config: "DictConfig") -> None:
    """UserError, before anything slow, when the chosen tracker is not installed or not logged in."""
    target = str(config.tracker.get("_target_"))
    for logger, package in (("WandbLogger", "wandb"), ("MLFlowLogger", "mlflow")):
        if target.endswith(logger) and importlib.util.find_spec(package) is None:
            raise UserError(f"tracker={package} needs a package: pip install -r requirements-trackers.txt")
    if target.endswith("WandbLogger") and not _can_reach_wandb():
        raise UserError("tracker=wandb has no account: run 'wandb login', or set WANDB_MODE=offline")


def _can_reach_wandb() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled") or os.environ.get("WANDB_API_KEY"):
        return True
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)


def git_state() -> dict[str, Any]:
    """Commit of this checkout and whether files differ from it; empty without git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def _fingerprints(config: "DictConfig") -> dict[str, str]:
    files = {
        "train": config.model.train_ds.manifest_filepath,
        "validation": config.model.validation_ds.manifest_filepath,
        "tokenizer": f"{config.model.tokenizer.dir}/tokenizer.model",
    }
    return {name: sha256(path) for name, path in files.items()}


class RunRecord:
    """The files of one run folder. Only the first rank may write."""

    has_started = False  # Lightning trains nothing when the checkpoint is at the last step already
    has_finished = False  # and stops without an end when max_time_per_run is over

    def __init__(self, log_dir: str | Path) -> None:
        self.folder = Path(log_dir) / "run"
        self.curve = self.folder / "curve.jsonl"
        self.samples = self.folder / "samples.jsonl"
        self._facts = self.folder / "run.json"

    def facts(self) -> dict[str, Any]:
        """What run.json holds, or nothing yet."""
        if not self._facts.is_file():
            return {"starts": []}
        return json.loads(self._facts.read_text(encoding="utf-8"))

    def start(self, config: "DictConfig") -> list[str]:
        """Note a start; returns what differs from the last one among the data's hashes and the commit."""
        from omegaconf import OmegaConf

        facts = self.facts()
        start = provenance(PACKAGES) | {"git": git_state(), "sha256": _fingerprints(config)}
        before = facts["starts"][-1] if facts["starts"] else start
        changed = [key for key, digest in start["sha256"].items() if before["sha256"].get(key) != digest]
        if before["git"].get("commit") != start["git"].get("commit"):
            changed.append("commit")
        facts["starts"].append(start)
        self._write(facts | {"name": config.name, "seed": config.model.train_ds.seed})
        with atomic_write(self.folder / "config.yaml") as stream:
            stream.write(OmegaConf.to_yaml(config, resolve=True))
        return changed

    def remember(self, **values: Any) -> None:
        """Add ``values`` to run.json."""
        self._write(self.facts() | values)

    def _write(self, facts: dict[str, Any]) -> None:
        with atomic_write(self._facts) as stream:
            json.dump(facts, stream, ensure_ascii=False, indent=2)

    def append(self, path: Path, row: dict[str, Any]) -> None:
        """Add a row, dropping rows of steps that a killed run had reached after its last checkpoint."""
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if json.loads(line)["step"] < row["step"]]
        with atomic_write(path) as stream:
            stream.write("\n".join([*kept, json.dumps(row, ensure_ascii=False)]) + "\n")


def begin(trainer: Any, config: "DictConfig", log_dir: Path) -> RunRecord:
    """Note the start of a run, and add its tracker and the callback that records it to the trainer."""
    from nemo.utils.get_rank import is_global_rank_zero  # Lightning knows its rank only once it fits

    record = RunRecord(log_dir)
    if is_global_rank_zero():
        for changed in record.start(config):
            print(f"warning: {changed} is not the same as when this run last started", flush=True)
    _attach_tracker(trainer, config, record, is_global_rank_zero())
    # Before the checkpoints: a validation whose checkpoint fails has still been recorded.
    trainer.callbacks.insert(0, _recorder(config, record))
    return record


def _attach_tracker(trainer: Any, config: "DictConfig", record: RunRecord, is_first_rank: bool) -> None:
    """Add the tracker to the trainer's loggers; a resumed run goes on in the same run of the tracker."""
    from hydra.utils import instantiate

    target = config.tracker.get("_target_")
    if not target:
        return
    known = record.facts().get("tracker_id")
    if target.endswith("WandbLogger"):
        known = known or uuid.uuid4().hex[:8]
        logger = instantiate(config.tracker, id=known, resume="allow")
    else:
        logger = instantiate(config.tracker, run_id=known)
    trainer.loggers = [*trainer.loggers, logger]
    if is_first_rank:
        record.remember(tracker_id=known or logger.run_id)


def _recorder(config: "DictConfig", record: RunRecord) -> Any:
    """A Lightning callback that writes the curve and the sample predictions at every validation."""
    import lightning.pytorch as pl

    entries = list(islice(read_manifest(config.model.validation_ds.manifest_filepath), SAMPLES))
    entries = [entry for entry in entries if Path(entry["audio_filepath"]).is_file()]  # else it is in a shard
    started = time.monotonic()

    class Recorder(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            record.has_started = True

        def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            record.has_finished = True

        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            metrics = trainer.callback_metrics
            if trainer.sanity_checking or "val_wer" not in metrics:
                return
            # On every rank: the encoder agrees with its peers on the longest input, and would wait for them.
            samples = pairs(entries, transcribe_samples(module, entries))
            if not trainer.is_global_zero:
                return
            step = trainer.global_step
            row = {"step": step, "epoch": trainer.current_epoch, "cer": float(metrics["val_wer"])}
            row |= {name: float(metrics[name]) for name in ("val_loss", "train_loss") if name in metrics}
            row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
            record.append(record.curve, row | {"seconds": round(time.monotonic() - started, 1)})
            record.append(record.samples, {"step": step, "samples": samples})
            for logger in trainer.loggers:
                if isinstance(logger, pl.loggers.TensorBoardLogger):
                    lines = [f"{sample['text']}\n\n{sample['pred_text']}" for sample in samples]
                    logger.experiment.add_text("samples", "\n\n---\n\n".join(lines), step)

    return Recorder()


def pairs(entries: Sequence[dict], texts: Sequence[str]) -> list[dict[str, str]]:
    """File, reference and hypothesis of each sample, keys as in evaluation's predictions."""
    return [
        {"audio_filepath": entry["audio_filepath"], "text": entry["text"], "pred_text": text}
        for entry, text in zip(entries, texts, strict=True)
    ]


def transcribe_samples(model: Any, entries: Sequence[dict]) -> list[str]:
    """Greedy text of each entry. NeMo's transcribe() would unfreeze what fine-tuning has frozen."""
    import torch

    from ko_asr.audio.read import read_segment

    was_training = model.training
    model.eval()
    texts = []
    with torch.inference_mode():
        for entry in entries:
            samples = torch.from_numpy(read_segment(entry, model.preprocessor._sample_rate))[None]
            log_probs, lengths, _ = model(
                input_signal=samples.to(model.device),
                input_signal_length=torch.tensor([samples.shape[1]], device=model.device),
            )
            best = model.decoding.ctc_decoder_predictions_tensor(log_probs, lengths)
            texts.append(best[0].text)
    model.train(was_training)
    return texts
