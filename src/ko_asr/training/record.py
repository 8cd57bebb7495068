"""The record by which a run can be explained later, in experiments/NAME/run/.

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
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance, sha256

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from omegaconf import DictConfig

PACKAGES = ("torch", "nemo_toolkit", "lightning", "lhotse", "sentencepiece", "numpy", "hydra-core")
# What may change while the run stays the same one: where and how long it trains, what it writes.
_NOT_NAMED = re.compile(
    r"name$|debug|profile|tracker|hydra|exp_manager|max_|advised_batch|data\.|model\.validation_ds"
    r"|model\.train_ds\.(manifest_filepath|num_workers|pin_memory|input_cfg)"
    r"|trainer\.(?!accumulate_grad_batches|precision)"
)
_LONGEST_NAME = 150  # a checkpoint's file name adds its score to the run's, and 255 bytes are the limit


def run_name(name: str, overrides: Iterable[str]) -> str:
    """Append to ``name`` the overrides that make it another run, for a folder of its own.

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
    """Raise UserError, before anything slow, when the chosen tracker is not installed or not logged in."""
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
        """The content of run.json; no starts where it is not written yet."""
        if not self._facts.is_file():
            return {"starts": []}
        return json.loads(self._facts.read_text(encoding="utf-8"))

    def start(self, config: "DictConfig") -> list[str]:
        """Note a start and name what differs from the last one among the data's hashes and the commit."""
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


def attach_tracker(
    trainer: "pl.Trainer", config: "DictConfig", record: RunRecord, is_first_rank: bool
) -> None:
    """Add the tracker to the trainer's loggers; a resumed run goes on in the same run of the tracker."""
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
