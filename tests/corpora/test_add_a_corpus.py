"""docs/add-a-corpus.md: its complete example is run as it stands on the page."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "add-a-corpus.md"


def recipe_of_the_page() -> str:
    """Return the page's one Python block, a whole recipe."""
    (block,) = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    return block


def write_corpus(root: Path) -> None:
    """Write the page's layout: two utterances for training, one whose audio is missing for test."""
    (root / "clips").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 0.1, (2, 12_000)).astype(np.float32)
    for name, samples in zip(("one.wav", "two.flac"), noise, strict=True):
        soundfile.write(root / "clips" / name, samples, 16_000)
    (root / "train.tsv").write_text(
        "a\tone.wav\t안녕하세요.\nb\ttwo.flac\t네, 반갑습니다!\n", encoding="utf-8"
    )
    (root / "test.tsv").write_text("a\tgone.wav\t안녕\na\tone.wav\t\na\ttwo.flac\t하나\n", encoding="utf-8")


def prepare(tmp_path: Path, out: Path) -> subprocess.CompletedProcess:
    script = tmp_path / "recipes" / "prepare_sample.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(recipe_of_the_page(), encoding="utf-8")
    command = [sys.executable, str(script), "--corpus", str(tmp_path / "sample"), "--out", str(out)]
    return subprocess.run([*command, "--jobs", "1"], capture_output=True, text=True, encoding="utf-8")


def test_the_example_of_the_page_prepares_a_corpus(tmp_path):
    write_corpus(tmp_path / "sample")
    out = tmp_path / "out"
    done = prepare(tmp_path, out)
    assert done.returncode == 1, done.stderr  # two of three test lines are rejected: more than allowed
    assert "FAILED test: 2 of 3 lines rejected" in done.stdout
    lines = (out / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "audio_filepath": "audio/a/one.flac",
            "duration": 0.75,
            "text": "안녕하세요",
            "sampling_rate": 16_000,
            "speaker": "a",
        },
        {
            "audio_filepath": "audio/b/two.flac",
            "duration": 0.75,
            "text": "네 반갑습니다",
            "sampling_rate": 16_000,
            "speaker": "b",
        },
    ]
    rejected = map(json.loads, (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines())
    assert {row["where"]: row["reason"] for row in rejected} == {
        "test.tsv:1": "missing file",
        "test.tsv:2": "no text in the table",
    }
    audit = json.loads((out / "audit.json").read_text(encoding="utf-8"))
    assert audit["corpus"]["licence"] == "CC BY 4.0"


def test_the_example_of_the_page_refuses_a_wrong_folder(tmp_path):
    (tmp_path / "sample").mkdir()
    done = prepare(tmp_path, tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith("error: no train.tsv or test.tsv in ")
