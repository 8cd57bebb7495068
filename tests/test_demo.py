"""The demo's own figures, and the ways in which its first commands refuse."""

import importlib.util
import json
import sys
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from commands import run, sentence

from ko_asr.evaluation.metrics import PROFILES

ROOT = Path(__file__).resolve().parents[1]


def test_demo_reaches_its_figures(demo) -> None:
    figures = demo.figures
    assert figures["cer"]["eval_clean"] <= 0.05
    assert figures["served_equal"] == figures["served_total"] == 200
    assert max(figures["log_probs_difference"].values()) <= 1e-3
    assert figures["held_out"]["text"] == figures["gateway"]["text"]
    assert demo.output.count(figures["held_out"]["text"]) == 2 and "http://127.0.0.1:9000/" in demo.output


def test_demo_scores_are_jiwers(demo) -> None:
    rules = PROFILES["plain"]
    assert len(demo.results) == 2
    for folder in demo.results.values():
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        assert len(entries) == 100
        said = [rules.apply(entry["text"]) for entry in entries]
        heard = [rules.apply(entry["pred_text"]) for entry in entries]
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["metrics"]
        assert scores["cer"]["rate"] == pytest.approx(jiwer.cer(said, heard), abs=1e-9)
        assert scores["wer"]["rate"] == pytest.approx(jiwer.wer(said, heard), abs=1e-9)


def test_eval_sentences_are_in_no_training_split(demo) -> None:
    texts = {
        name: {json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()}
        for name, path in demo.manifests.items()
    }
    assert not (texts["eval_clean"] | texts["eval_other"]) & (texts["train"] | texts["dev"])
    assert demo.figures["held_out"]["said"] not in set.union(*texts.values())


def test_training_reads_shards_and_mixes_noise(demo, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).standard_normal(80_000).astype(np.float32) * 0.05
    (tmp_path / "recordings").mkdir()
    soundfile.write(tmp_path / "recordings/rain.wav", noise, 16_000)
    noise_made = run(
        "recipes/prepare_noise.py", "--noise", tmp_path / "recordings", "--out", tmp_path / "noise"
    )
    shards_made = run("recipes/shard_manifest.py", "--manifest", demo.manifests["dev"], "--num-buckets", "3",
                      "--out", tmp_path / "shards")  # fmt: skip
    assert (noise_made.returncode, shards_made.returncode) == (0, 0), noise_made.stderr + shards_made.stderr
    options = [line.strip(" \\'") for line in shards_made.stdout.splitlines() if line.startswith("    ")]
    options += noise_made.stdout.splitlines()[-1].split()
    done = run(
        ROOT / "recipes/train_ctc.py", "--config-name", "fastconformer_ko_demo", "name=sharded", *options,
        "trainer.max_steps=4", f"exp_manager.exp_dir={tmp_path}/experiments", cwd=demo.work,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "experiments/sharded/checkpoints/sharded.nemo").is_file()


def test_training_without_a_corpus_names_both_ways_on(tmp_path: Path) -> None:
    done = run(ROOT / "recipes/train_ctc.py", "--config-name", "fastconformer_ko", cwd=tmp_path)
    said = sentence(done)
    assert "prepare_ksponspeech.py" in said and "make demo" in said
    assert not list(tmp_path.iterdir())


def test_training_refuses_what_ctc_cannot_align(demo, tmp_path: Path) -> None:
    done = run(
        ROOT / "recipes/train_ctc.py", "--config-name", "fastconformer_ko_demo",
        "model.encoder.subsampling_factor=16", cwd=demo.work,
    )  # fmt: skip
    said = sentence(done)
    assert "more tokens than the encoder has frames at 16x" in said and "max_infeasible" in said


def test_training_refuses_a_damaged_tokenizer(demo, tmp_path: Path) -> None:
    whole = (demo.work / "tokenizers/demo/tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(whole[:1000])
    done = run(
        ROOT / "recipes/train_ctc.py", "--config-name", "fastconformer_ko_demo",
        f"data.tokenizer={tmp_path}", cwd=demo.work,
    )  # fmt: skip
    assert "is not a SentencePiece model" in sentence(done)


def test_root_is_not_on_the_path() -> None:
    """With it there, a package that has a folder's name here is found as that folder, which has no origin."""
    assert not [entry for entry in sys.path if Path(entry or ".").resolve() == ROOT]
    for package in ("tokenizers", "triton"):
        assert not (ROOT / package / "__init__.py").exists()
        found = importlib.util.find_spec(package)  # triton is installed with PyTorch for GPUs only
        assert found.origin is not None if found else package == "triton"
