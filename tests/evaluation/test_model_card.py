"""recipes/model_card.py: every figure is some file's, and what no file says is not known."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from commands import run

from ko_asr.evaluation.model_card import write_model_card

ROOT = Path(__file__).resolve().parents[2]


def make_card(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return run("recipes/model_card.py", *arguments, cwd=cwd)


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


@pytest.fixture(scope="module")
def alone(demo, tmp_path_factory) -> Path:
    """The demo model in a folder where nothing else is."""
    path = tmp_path_factory.mktemp("alone") / "experiments" / "x" / "model.nemo"
    path.parent.mkdir(parents=True)
    shutil.copy(demo.model, path)
    return path


def test_the_card_says_what_the_files_say(demo, tmp_path) -> None:
    out = tmp_path / "card.md"
    done = make_card("--model", demo.model, "--repository", demo.repository, "--out", out, cwd=demo.work)
    assert done.returncode == 0 and str(out) in done.stdout, done.stderr
    card = out.read_text(encoding="utf-8")
    front = front_matter(card)
    assert front["language"] == ["ko"] and "synthetic-speech" in front["tags"]
    assert "Trained on synthetic speech" in card and "none needed" in card
    results = {result["dataset"]["type"]: result for result in front["model-index"][0]["results"]}
    for name, folder in demo.results.items():
        scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        assert results[name]["metrics"][0]["value"] == round(100 * scores["headline"]["rate"], 2)
        coda = scores["metrics"]["coda"]
        low, high = (f"{100 * value:.2f}" for value in coda["interval95"])
        assert (
            f"| coda (종성, 받침) | {100 * coda['rate']:.2f} | {low} to {high} | {coda['reference']} |"
            in card
        )
        assert f"Parameters: {scores['model']['parameters']:,};" in card
        assert f"**{name} by speaking rate**\n\n| speaking rate |" in card
    graph = demo.repository / "asr_encoder/1/model.onnx"
    assert f"ONNX encoder: {graph.stat().st_size / 1e6:.1f} MB" in card and "0.025 to 60 s" in card
    assert "type jamo" in card and "0.00 % of 1800" in card


def test_export_writes_the_same_card_beside_the_ensemble(demo) -> None:
    card = (demo.repository / "asr/1/model_card.md").read_text(encoding="utf-8")
    assert f"# {demo.model.stem}\n" in card and "Trained on synthetic speech" in card
    assert "**eval_clean** (Demo corpus" in card and "not exported with this card" not in card


def test_what_is_not_known_is_said_to_be(alone, tmp_path) -> None:
    assert make_card("--model", alone, cwd=tmp_path).returncode == 0
    card = alone.with_suffix(".md").read_text(encoding="utf-8")
    assert "model-index" not in front_matter(card) and "synthetic-speech" not in front_matter(card)["tags"]
    for line in (
        "Whether the training speech is synthetic: not known",
        "- Corpus, licence of the data: not known",
        "- Speakers in the training set: not known",
        "- Text: not known",
        "type not known, 83 pieces",
        "Not measured: `python recipes/evaluate.py",
        "- ONNX encoder: not known",
        "cannot align: not known",
        "Not recorded: no run/run.json",
    ):
        assert line in card, line


def test_the_record_of_the_run_is_quoted(demo, alone, tmp_path) -> None:
    from hydra import compose, initialize_config_dir

    from ko_asr.training.record import RunRecord

    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "fastconformer_ko_demo",
            overrides=[f"data.dir={demo.work}/data/demo", f"data.tokenizer={demo.work}/tokenizers/demo"],
        )
    record = RunRecord(alone.parents[1])
    record.start(config)
    start = record.facts()["starts"][-1]
    write_model_card(alone, tmp_path / "card.md", audit=demo.work / "data/demo/audit.json")
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert f"Commit: {start['git'].get('commit', 'not known')}" in card
    assert f"sha256 of train: {start['sha256']['train']}" in card
    assert "max_steps: 1000" in card and "Not recorded" not in card and "Trained on synthetic" in card
    shutil.rmtree(record.folder)


def test_files_of_another_model_are_refused_and_broken_ones_named(demo, alone, tmp_path) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    scores = json.loads((demo.results["eval_clean"] / "scores.json").read_text(encoding="utf-8"))
    scores["model"]["sha256"] = "0" * 64
    (tmp_path / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    shutil.copytree(demo.repository / "asr_encoder", tmp_path / "triton/asr_encoder")
    contract = next((tmp_path / "triton/asr_encoder").rglob("contract.json"))
    text = contract.read_text(encoding="utf-8")
    contract.write_text(text.replace('"model_sha256": "', '"model_sha256": "0'), encoding="utf-8")
    cases = [
        (("--scores", tmp_path), "scores in", "of another model"),
        (("--scores", tmp_path / "none"), "no file", "none"),
        (("--scores", tmp_path / "list.json"), "list.json", "no JSON object"),
        (("--audit", tmp_path / "broken.json"), "broken.json", "is not JSON"),
        (("--audit", tmp_path / "scores.json"), "is no audit", "audit.json"),
        (("--repository", tmp_path / "triton"), "serves another model", "to_triton.py"),
    ]
    for arguments, *expected in cases:
        done = make_card("--model", demo.model, *arguments, "--out", tmp_path / "card.md")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done
        assert all(part in done.stderr for part in expected), done.stderr
    assert not (tmp_path / "card.md").exists()
