"""The demo's own figures, and the ways in which its first commands refuse."""

import json
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path = ROOT, python: str = sys.executable) -> subprocess.CompletedProcess:
    return subprocess.run(
        [python, *map(str, command)], cwd=cwd, capture_output=True, encoding="utf-8", timeout=300
    )


def sentence(done: subprocess.CompletedProcess) -> str:
    """The one line that a command that refused has said on standard error."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1, done
    assert lines[0].startswith("error: ")
    return lines[0]


def test_demo_reaches_its_figures(demo) -> None:
    figures = demo.figures
    assert figures["cer"]["eval_clean"] <= 0.05
    assert figures["served_equal"] == figures["served_total"] == 200
    assert max(figures["log_probs_difference"].values()) <= 1e-3
    assert figures["held_out"]["text"] in demo.output


def test_demo_scores_are_jiwers(demo) -> None:
    for split, folder in demo.results.items():
        lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        said, heard = [e["text"] for e in entries], [e["pred_text"] for e in entries]
        assert len(said) == 100
        assert figures_of(demo, split)["cer"] == pytest.approx(jiwer.cer(said, heard), abs=1e-9)
        assert figures_of(demo, split)["wer"] == pytest.approx(jiwer.wer(said, heard), abs=1e-9)


def figures_of(demo, split: str) -> dict[str, float]:
    scores = json.loads((demo.results[split] / "scores.json").read_text(encoding="utf-8"))
    return {name: scores["metrics"][name]["rate"] for name in ("cer", "wer")}


def test_eval_sentences_are_in_no_training_split(demo) -> None:
    texts = {
        name: {json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()}
        for name, path in demo.manifests.items()
    }
    assert not (texts["eval_clean"] | texts["eval_other"]) & (texts["train"] | texts["dev"])
    assert demo.figures["held_out"]["said"] not in set.union(*texts.values())


def test_a_second_demo_keeps_what_is_there(demo) -> None:
    before = demo.model.stat().st_mtime_ns
    done = run("recipes/train_ctc.py", "--config-name", "fastconformer_ko_demo", cwd=ROOT)
    if done.returncode:  # no data in the checkout: the recipe says so and leaves the demo's model alone
        sentence(done)
    assert demo.model.stat().st_mtime_ns == before


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
    """Importing these from the checkout must find the packages, not this project's folders."""
    import tokenizers
    import torch._dynamo  # imports the real triton where there is one

    assert ROOT not in Path(tokenizers.__file__).resolve().parents or ".venv" in tokenizers.__file__
    assert not [folder for folder in ("recipes", "tokenizers", "conf", "export", "triton", "tests")
                if list((ROOT / folder).rglob("__init__.py"))]  # fmt: skip
    assert torch._dynamo is not None
