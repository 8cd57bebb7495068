"""Small runs before the long one, and what ends a run before it costs hours, through the real commands."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run, sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.data.manifest import read_manifest, write_manifest
from ko_asr.text.tokenizer import train
from ko_asr.training.initial_loss import uniform_loss

DEMO = ("--config-name", "fastconformer_ko_demo")


@pytest.fixture
def work(demo, tmp_path: Path) -> Path:
    """A work folder with the demo's data and no experiments."""
    for name in ("data", "tokenizers"):
        (tmp_path / name).symlink_to(demo.work / name)
    return tmp_path


# ---- the expected initial loss ------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_uniform_loss_is_ctcs(tokens: list[int], frames: int) -> None:
    import torch

    symbols = 5
    flat = torch.full((frames, 1, symbols), -math.log(symbols), dtype=torch.float64)
    theirs = torch.nn.functional.ctc_loss(
        flat, torch.tensor([tokens]), torch.tensor([frames]), torch.tensor([len(tokens)]),
        blank=symbols - 1, reduction="sum",
    )  # fmt: skip
    assert uniform_loss(tokens, frames, symbols) == pytest.approx(float(theirs), rel=1e-9)


# ---- small runs ---------------------------------------------------------------------------------------


def test_debug_names_what_does_not_hold_and_leaves_nothing(work: Path) -> None:
    """A learning rate of zero: all else holds, the optimiser changes nothing."""
    options = ("debug=true", "model.optim.lr=0", "model.optim.sched.min_lr=0")
    done = run("recipes/train_ctc.py", *DEMO, *options, cwd=work)
    assert "debug: optimiser: changed 0 of 195 parameters" in sentence(done)
    listed = [line.split()[:2] for line in done.stdout.splitlines() if line[:6] in ("  ok  ", "  FAIL")]
    assert ["FAIL", "optimiser"] in listed and sum(word == "ok" for word, _ in listed) == len(listed) - 1
    assert {name for _, name in listed} >= {"paths", "shapes", "gradients", "restored", "memory"}
    assert sorted(path.name for path in work.iterdir()) == ["data", "tokenizers"]


def test_one_batch_is_overfitted(work: Path) -> None:
    done = run("recipes/overfit_batch.py", *DEMO, cwd=work)
    assert done.returncode == 0, done.stderr[-3000:]
    learnt = [line.split(maxsplit=1)[1] for line in done.stdout.splitlines() if line.startswith("  learnt")]
    pairs = [line.split(" -> ") for line in learnt]
    said = {entry["text"] for entry in read_manifest(work / "data/demo/train.jsonl")}
    assert len(pairs) == 4 and all(ref == hyp and ref in said for ref, hyp in pairs)
    assert not (work / "experiments").exists()


def test_profile_says_where_the_time_goes(work: Path) -> None:
    done = run("recipes/train_ctc.py", *DEMO, "profile=true", cwd=work)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = work / "experiments/fastconformer_ko_demo/profile"
    assert sorted(path.name for path in folder.iterdir()) == ["phases.json", "trace.json"]
    phases = json.loads((folder / "phases.json").read_text(encoding="utf-8"))
    assert set(phases["phase_ms"]) == {"data loading", "forward", "backward", "optimiser"}
    assert sum(phases["phase_ms"].values()) == pytest.approx(phases["step_ms"], rel=0.01)
    names = {event.get("name") for event in json.loads((folder / "trace.json").read_bytes())["traceEvents"]}
    assert names >= {"forward", "backward", "optimiser", "aten::mm"}
    assert f"{phases['phase_share']['backward']:.1%}" in done.stdout


# ---- what ends a run ----------------------------------------------------------------------------------


def test_lost_numbers_end_the_run_and_name_the_audio(work: Path) -> None:
    entries = list(read_manifest(work / "data/demo/train.jsonl"))[:6]
    for k, entry in enumerate(entries):
        samples = np.full(round(entry["duration"] * 16_000), np.nan, np.float32)
        soundfile.write(work / f"nan{k}.wav", samples, 16_000, subtype="FLOAT")
        entry["audio_filepath"] = str(work / f"nan{k}.wav")
    write_manifest(work / "nan.jsonl", entries)
    options = (f"model.train_ds.manifest_filepath={work}/nan.jsonl", "max_nonfinite_losses=3")
    said = sentence(run("recipes/train_ctc.py", *DEMO, *options, "model.train_ds.num_buckets=2", cwd=work))
    assert "3 steps in a row" in said and "step 3" in said and "samples that are no numbers" in said
    assert any(f"nan{k}.wav" in said for k in range(6))


@pytest.mark.slow
def test_one_broken_batch_leaves_batch_norm_as_it_was() -> None:
    """Its running statistics would keep a NaN for good, and with it every validation."""
    import lightning.pytorch as pl
    import torch

    from ko_asr.training.nonfinite import StopOnNonFiniteLoss

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2, affine=False)
            self.bias = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch: torch.Tensor, _: int) -> dict:
            return {"loss": self.norm(batch).sum() + self.bias}

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    rows = torch.arange(8.0).reshape(4, 2)
    batches = [rows, torch.full_like(rows, math.nan), rows]
    model = Model()
    pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[StopOnNonFiniteLoss(2, "unused.jsonl")],
    ).fit(model, torch.utils.data.DataLoader(batches, batch_size=None))  # fmt: skip
    twice = torch.nn.BatchNorm1d(2)
    for batch in (rows, rows):
        twice(batch)
    assert torch.equal(model.norm.running_mean, twice.running_mean)
    assert torch.equal(model.norm.running_var, twice.running_var)


def test_a_checkpoint_of_another_vocabulary_is_not_resumed(demo, work: Path) -> None:
    folder = work / "experiments/fastconformer_ko_demo/checkpoints"
    folder.mkdir(parents=True)
    last = next((demo.work / "experiments/fastconformer_ko_demo/checkpoints").glob("*last.ckpt"))
    (folder / last.name).symlink_to(last)
    train("jamo", None, work / "other")
    done = run("recipes/train_ctc.py", *DEMO, f"data.tokenizer={work}/other", cwd=work)
    assert "another vocabulary (83 tokens, this tokenizer has 136)" in sentence(done)


def test_a_run_that_cannot_work_is_refused_at_once(work: Path) -> None:
    """Each without importing NeMo, so before a scheduler has even noticed the job."""
    train("syllable", ["abc def"], work / "latin")
    entries = list(read_manifest(work / "data/demo/train.jsonl"))
    entries[-1]["audio_filepath"] = str(work / "gone.flac")
    write_manifest(work / "gone.jsonl", entries)
    (work / "cut.nemo").write_bytes(b"no tar")
    refused = {
        f"data.tokenizer={work}/latin": "tokens are unknown to",
        f"model.train_ds.manifest_filepath={work}/gone.jsonl": f"gone.jsonl:{len(entries)}: no audio file",
        f"init_from_nemo_model={work}/cut.nemo": "is not a whole .nemo file",
        "model.optim.lrr=1": "no key model.optim.lrr; did you mean model.optim.lr?",
        "size=q": "choose one of l, m, s, xl, xs",
        "--config-name=fastconformer_ko_jamoo": "did you mean fastconformer_ko_jamo?",
        "model.optim.lr=${nope}": "Interpolation key 'nope' not found",
    }
    for option, words in refused.items():
        assert words in sentence(run("recipes/train_ctc.py", *DEMO, option, cwd=work))
    assert not (work / "experiments").exists()
