"""The demo corpus: layout, quirks, disjoint splits, the same bytes for the same seed."""

import hashlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run

from ko_asr.audio.espeak import SAMPLE_RATE, VOICES, synthesize
from ko_asr.corpora.demo import SPLITS, plan, spoken_form

SCRIPT = Path(__file__).parents[2] / "recipes" / "make_demo_corpus.py"


def make(out: Path, *options: str) -> subprocess.CompletedProcess:
    return run(SCRIPT, "--out", out, *options)


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("말뭉치 하나") / "corpus"
    done = make(out, "--utterances", "60", "--jobs", "1")
    assert done.returncode == 0, done.stderr
    return out


def scripts(corpus: Path, split: str) -> list[tuple[str, str]]:
    lines = (corpus / "scripts" / f"{split}.trn").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(" :: ", 1)) for line in lines]


def test_layout_and_quirks(corpus):
    for split in SPLITS:
        rows = scripts(corpus, split)
        assert len(rows) == (60 if split == "train" else 4)
        for path, text in rows:
            data = (corpus / path).read_bytes()
            assert len(data) % 2 == split.startswith("eval"), path  # the surplus byte
            seconds = len(data) // 2 / SAMPLE_RATE
            assert 1.0 < seconds < 6.0
            if not split.startswith("eval"):
                assert (corpus / path).with_suffix(".txt").read_bytes().decode("cp949").strip() == text


def test_same_seed_same_bytes_whatever_the_processes(corpus, tmp_path):
    assert make(tmp_path / "two", "--utterances", "60", "--jobs", "2").returncode == 0
    assert digest(tmp_path / "two") == digest(corpus)
    assert make(tmp_path / "other", "--utterances", "60", "--seed", "1").returncode == 0
    assert digest(tmp_path / "other") != digest(corpus)


def test_no_sentence_is_said_twice():
    planned, held_out = plan(3000, seed=0)
    said = [spoken_form(u.text).strip(".?") for u in planned]
    per_split = {
        split: {s for u, s in zip(planned, said, strict=True) if u.split == split} for split in SPLITS
    }
    for split in SPLITS:
        for other in SPLITS:
            assert split == other or not per_split[split] & per_split[other]
    assert held_out.spoken.strip(".?") not in set(said)
    assert any("(20개)/(스무 개)" in u.text for u in planned)
    text = " ".join(u.text for u in planned)
    assert all(mark in text for mark in ("b/", "l/", "o/", "n/", "u/", "어/", "+ ", "*", "?"))


def test_held_out_sentence(corpus):
    samples, rate = soundfile.read(corpus / "held_out" / "held_out.wav", dtype="int16")
    assert rate == SAMPLE_RATE and np.abs(samples.astype(int)).max() > 3000
    assert (corpus / "held_out" / "held_out.txt").read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("voice", VOICES)
def test_synthesis_does_not_depend_on_what_came_before(voice):
    first = synthesize("닭이 부엌에서 밥을 먹었다.", voice, rate=180, pitch=40)
    synthesize("다른 문장.", "ko+m3", rate=200, pitch=60)
    again = synthesize("닭이 부엌에서 밥을 먹었다.", voice, rate=180, pitch=40)
    assert np.array_equal(first, again)
    assert first.dtype == np.float32 and 0.1 < np.abs(first).max() <= 1.2


def test_bad_input(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for arguments in ([str(tmp_path / "file")], [str(tmp_path / "x"), "--utterances", "0"]):
        done = make(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    too_many = make(tmp_path / "x", "--utterances", "3000000")
    assert too_many.returncode == 2 and "grammar is good for" in too_many.stderr
    assert not (tmp_path / "x").exists()
