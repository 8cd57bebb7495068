"""Transcriptions with KsponSpeech's marks in one's own folder: read by --style, never by halves."""

import json

import commands
import numpy as np
import pytest
import soundfile

from ko_asr.data.schema import validate_manifest

MARKED = "n/ 아 (20개)/(스무 개) 샀어 b/"


def prepare(tmp_path, *arguments):
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    for name, text in (("a", MARKED), ("b", "오늘은 날씨가 좋다")):
        soundfile.write(corpus / f"{name}.wav", np.random.default_rng(1).normal(0, 0.1, 32_000), 16_000)
        (corpus / f"{name}.txt").write_text(text, encoding="utf-8")
    done = commands.run(
        *("recipes/prepare_folder.py", "--corpus", corpus, "--out", out, "--dev-share", "0", "--jobs", "1"),
        *("--tokenizers", *arguments),
    )
    lines = (out / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return done, [json.loads(line)["text"] for line in lines], out


@pytest.mark.parametrize(
    ("side", "text"), [("orthographic", "아 20개 샀어"), ("phonetic", "아 스무 개 샀어")]
)
def test_a_style_takes_a_side(tmp_path, side, text):
    done, texts, _ = prepare(tmp_path, "--style", "ksponspeech", "--side", side)
    assert done.returncode == 0 and texts == [text, "오늘은 날씨가 좋다"]


@pytest.mark.parametrize(
    ("option", "texts"),
    [
        (("--side", "orthographic"), {"text": "아 20개 샀어", "spoken": "아 스무 개 샀어"}),
        (("--side", "phonetic"), {"text": "아 스무 개 샀어", "written": "아 20개 샀어"}),
        (("--digits", "phonetic"), {"text": "아 스무 개 샀어", "written": "아 20개 샀어"}),
        (("--profile", "espnet"), {"text": "아 20개 샀어", "spoken": "아 스무 개 샀어"}),
    ],
)
def test_the_manifest_keeps_both_sides(tmp_path, option, texts):
    done, _, out = prepare(tmp_path, "--style", "ksponspeech", *option)
    assert done.returncode == 0, done.stderr
    first, second = map(json.loads, (out / "train.jsonl").read_text(encoding="utf-8").splitlines())
    assert {name: first[name] for name in ("text", "written", "spoken") if name in first} == texts
    assert "written" not in second and "spoken" not in second
    assert validate_manifest(out / "train.jsonl").utterances == 2


def test_plain_text_with_marks_is_rejected_and_the_reason_names_the_style(tmp_path):
    done, texts, out = prepare(tmp_path)
    rejected = json.loads((out / "rejected.jsonl").read_text(encoding="utf-8"))
    assert done.returncode == 1 and texts == ["오늘은 날씨가 좋다"]
    assert "--style ksponspeech" in rejected["reason"] and "--style ksponspeech" in done.stdout
