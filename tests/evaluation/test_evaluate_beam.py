"""recipes/evaluate.py with a language model: tuned, compared with greedy, stored."""

import json
from pathlib import Path

import pytest
from commands import run

from ko_asr.evaluation.beam_batch import ALPHAS, BETAS
from ko_asr.evaluation.metrics import score
from ko_asr.text import language_model


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("lm")
    source = ("--model", demo.model, "--manifest", demo.manifests["train"], "--order", 4)
    done = run("recipes/train_lm.py", *source, "--out", out)
    assert done.returncode == 0, done.stderr
    return out


def test_scores_before_and_after_with_weights_tuned_on_dev(demo, trained, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("철수\n떡볶이\n", encoding="utf-8")
    done = run(
        "recipes/evaluate.py", "--model", demo.model, "--manifest", demo.manifests["eval_other"],
        "--limit", 10, "--lm", trained, "--tune", demo.manifests["dev"], "--tune-limit", 4, "--beam-size", 4,
        "--boost-words", words, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "out/scores.json").read_text(encoding="utf-8"))
    lines = (tmp_path / "out/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    for field, side in (("pred_text", "this"), ("greedy_text", "other")):
        rate = score([e["text"] for e in entries], [e[field] for e in entries]).total("cer").rate
        assert card["greedy"]["metrics"]["cer"][side] == pytest.approx(rate)
    decoding = card["decoding"]
    trials = decoding["tuning"]["trials"]
    assert len(trials) == len(ALPHAS) * len(BETAS)
    best = min(trials, key=lambda trial: trial["cer"])
    chosen = next(t for t in trials if (t["alpha"], t["beta"]) == (decoding["alpha"], decoding["beta"]))
    assert chosen["cer"] == best["cer"]
    assert language_model.read_weights(trained).alpha == decoding["alpha"]
    assert card["greedy"]["metrics"]["cer"]["difference"] <= 0, "a language model of this grammar cannot hurt"
    assert "Beam search against greedy" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_what_does_not_fit_is_said_before_the_model_is_loaded(demo, trained, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    description = json.loads((trained / language_model.DESCRIPTION).read_text(encoding="utf-8"))
    description["vocabulary_sha256"] = "0"
    (other / language_model.DESCRIPTION).write_text(json.dumps(description), encoding="utf-8")
    latin = tmp_path / "words.txt"
    latin.write_bytes("철수".encode("cp949"))
    manifest = demo.manifests["eval_other"]
    cases = {
        "another vocabulary": ("--lm", other),
        "no whole language model": ("--lm", tmp_path / "none"),
        "are the same": ("--lm", trained, "--tune", manifest),
        "needs --lm": ("--tune", demo.manifests["dev"]),
        "is not UTF-8": ("--boost-words", latin),
    }
    for said, arguments in cases.items():
        out = tmp_path / "out"
        done = run(
            "recipes/evaluate.py", "--model", demo.model, "--manifest", manifest, "--out", out, *arguments
        )
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert "loading" not in done.stdout and not (out / "scores.json").exists()
