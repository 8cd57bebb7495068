"""Runs that leave a record, go on after a kill as if nothing had happened, and survive a full disk."""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.provenance import sha256
from ko_asr.training.record import run_name

ROOT = Path(__file__).resolve().parents[2]
STEPS = 12
# A model and batches small enough that starting Python is what takes the time; dropout and masks are on, so
# that equal losses mean equal random numbers.
TINY = (
    "--config-name", "fastconformer_ko_demo", "model.encoder.n_layers=1", "model.encoder.d_model=32",
    "model.encoder.dropout=0.1", "model.train_ds.batch_duration=10", "model.train_ds.num_buckets=3",
    "trainer.log_every_n_steps=1",
)  # fmt: skip


@pytest.fixture
def tiny(few_utterances: tuple[str, ...]) -> tuple[str, ...]:
    return (*TINY, *few_utterances)


def start(script: str, *arguments: str, cwd: Path, largest_file: int | None = None) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}

    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        [sys.executable, ROOT / "recipes" / script, *arguments], cwd=cwd, env=environment, preexec_fn=limit,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> tuple[str, str]:
    try:
        return process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def losses(run: Path) -> dict[int, float]:
    """Training loss of each step from TensorBoard's files; what was done again counts once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in sorted(run.rglob("events.out.tfevents*")):
        events = EventAccumulator(str(file)).Reload()
        if "train_loss" in events.Tags()["scalars"]:
            found |= {event.step: event.value for event in events.Scalars("train_loss")}
    return found


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_killed_run_equals_an_uninterrupted_one(tiny, tmp_path: Path) -> None:
    """Killed within an epoch, then out of disk space at the next checkpoint, then let run."""
    steps = (f"trainer.max_steps={STEPS}", "trainer.val_check_interval=5")
    whole = start("train_ctc.py", *tiny, *steps, "name=whole", "tracker=wandb", cwd=tmp_path)
    said = finish(whole)
    assert whole.returncode == 0, said[1][-3000:]

    command = ("train_ctc.py", *tiny, *steps, "name=killed", "tracker=mlflow")
    killed = start(*command, cwd=tmp_path)
    checkpoints = tmp_path / "experiments/killed/checkpoints"
    deadline = time.monotonic() + 200
    while not list(checkpoints.glob("*last.ckpt")) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "it had finished before it could be killed"
    saved = next(checkpoints.glob("*last.ckpt"))
    before = sha256(saved)

    full = start(*command[:-1], cwd=tmp_path, largest_file=saved.stat().st_size // 2)
    _, error = finish(full)
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert full.returncode == 2 and len(lines) == 1, error[-3000:]
    assert "earlier checkpoints are untouched" in lines[0] and str(checkpoints.name) in lines[0]
    assert sha256(saved) == before
    assert not list(checkpoints.glob(".*.tmp"))

    resumed = start(*command, cwd=tmp_path)
    said = finish(resumed)
    assert resumed.returncode == 0, said[1][-3000:]

    expected, found = (losses(tmp_path / "experiments" / name) for name in ("whole", "killed"))
    assert sorted(expected) == list(range(STEPS))
    assert found == pytest.approx(expected, rel=1e-6)
    check_record(tmp_path, tiny)


def check_record(work: Path, tiny: tuple[str, ...]) -> None:
    whole, killed = (work / "experiments" / name / "run" for name in ("whole", "killed"))
    for name in ("cer", "val_loss", "learning_rate"):
        curves = [[row[name] for row in rows(folder / "curve.jsonl")] for folder in (whole, killed)]
        assert curves[1] == pytest.approx(curves[0], rel=1e-6), name
    facts = json.loads((killed / "run.json").read_text(encoding="utf-8"))
    assert len(facts["starts"]) == 3
    folder = Path(next(option for option in tiny if option.startswith("data.dir=")).partition("=")[2])
    assert facts["starts"][-1]["sha256"]["train"] == sha256(folder / "train.jsonl")
    assert {"torch", "nemo_toolkit"} <= set(facts["starts"][-1]["versions"])
    assert "lr: 0.003" in (killed / "config.yaml").read_text(encoding="utf-8")
    last = rows(killed / "samples.jsonl")[-1]["samples"]
    assert [sample["text"] for sample in last] == [row["text"] for row in rows(folder / "dev.jsonl")[:5]]

    assert list((work / "experiments/whole/wandb").glob("offline-run-*/*.wandb"))
    with sqlite3.connect(work / "experiments/mlflow.db") as store:
        runs = store.execute("select run_uuid, name from runs").fetchall()
        logged = store.execute("select count(*) from metrics where key = 'train_loss'").fetchone()
    assert runs == [(facts["tracker_id"], "killed")]  # three starts, one run
    assert logged[0] >= STEPS


@pytest.mark.slow
def test_what_a_killed_save_leaves_costs_no_checkpoint(tmp_path: Path) -> None:
    """NeMo would delete the marked checkpoint and refuse the other two as ambiguous."""
    from ko_asr.training.checkpoints import tidy_checkpoints

    left = ("run-epoch=1-last.ckpt", "run-epoch=2-last.ckpt", "run-epoch=2-last-unfinished", ".run.x.tmp")
    for age, name in enumerate(left):
        (tmp_path / name).write_text(name, encoding="utf-8")
        os.utime(tmp_path / name, (age, age))
    tidy_checkpoints(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [left[1]]


def test_wandb_without_account_is_refused_before_anything_slow(tiny, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, ROOT / "recipes/train_ctc.py", *tiny, "tracker=wandb"], cwd=tmp_path,
        env=environment | {"HOME": str(tmp_path)}, capture_output=True, encoding="utf-8", timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "error: tracker=wandb has no account: run 'wandb login', or set WANDB_MODE=offline"
    )


def test_sweep_goes_on_where_it_stopped(tiny, tmp_path: Path) -> None:
    options = ("--study", "tiny", *tiny, "trainer.max_steps=3", "trainer.val_check_interval=3")
    space = ("model.optim.lr=tag(log,interval(1e-3,1e-2))", "model.spec_augment.time_masks=choice(0,2)")
    for trials in ("1", "2"):
        process = start("sweep.py", "--trials", trials, *options, *space, cwd=tmp_path)
        output, error = finish(process)
        assert process.returncode == 0, error[-3000:]
    trials = json.loads((tmp_path / "experiments/tiny/trials.json").read_text(encoding="utf-8"))
    assert len(trials) == 2 and output.count("trial ") == 1  # the second command trained one
    assert [trial["cer"] for trial in trials] == sorted(trial["cer"] for trial in trials)
    rates = [float(trial["overrides"][0].removeprefix("model.optim.lr=")) for trial in trials]
    assert len(set(rates)) == 2 and all(1e-3 <= rate <= 1e-2 for rate in rates)
    assert f"next: python recipes/train_ctc.py {' '.join(TINY[:2])}" in output


KEYS = st.sampled_from(["size", "model.optim.lr", "+model.x.y", "augment", "trainer.precision"])
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="="), max_size=80)


@given(st.dictionaries(KEYS, VALUES), st.randoms())
def test_run_names_are_folder_names_and_know_no_order(overrides: dict[str, str], random) -> None:
    pairs = [f"{key}={value}" for key, value in overrides.items()]
    name = run_name("base", pairs)
    random.shuffle(pairs)
    assert run_name("base", pairs) == name
    assert "/" not in name and "=" not in name and len(name.encode()) <= 150
    machine = ["trainer.devices=8", "trainer.max_steps=5", "exp_manager.exp_dir=/x", "tracker=wandb"]
    assert run_name("base", [*pairs, *machine]) == name
