"""recipes/evaluate.py on dual transcriptions: figures of the written form, on transcripts made by hand."""

import json

import pytest
from commands import run, sentence

ENTRIES = [
    # text is the spoken side: written stands beside it
    {"text": "세 시에 만나요", "written": "3시에 만나요", "pred_text": "세 시에 만나요"},
    {"text": "만 오천 원이에요", "written": "만 5천원이에요", "pred_text": "만 오천 원이에오"},
    # text is the written side
    {"text": "20개 샀어", "spoken": "스무 개 샀어", "pred_text": "서른 개 샀어"},
    {"text": "그냥 갔어", "pred_text": "그냥 갔어"},
]


@pytest.fixture
def predictions(tmp_path):
    rows = [
        {"audio_filepath": f"/a/{number}.flac", "duration": 2.0} | entry
        for number, entry in enumerate(ENTRIES)
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_the_written_form_is_scored_beside_the_spoken_one(predictions, tmp_path):
    out = tmp_path / "out"
    done = run("recipes/evaluate.py", "--predictions", predictions, "--out", out)
    assert done.returncode == 0, done.stderr
    card = json.loads((out / "scores.json").read_text(encoding="utf-8"))["written"]
    assert (card["utterances"], card["dual"]) == (4, 3)
    heard, ideal = card["transcripts"], card["references"]
    # spoken: 요 for 오 and 서른 for 스무; references 8 + 9 + 7 + 5 characters
    assert heard["spoken_cer"]["substitutions"] == 3 and heard["spoken_cer"]["reference"] == 29
    # alone, finishing is right but for the style of one amount
    assert ideal["sentences_exact"] == 0.75 and ideal["sentences_value_right"] == 1.0
    assert ideal["spans_value_right"] == {
        "precision": 1.0, "recall": 1.0, "reference": 3, "found": 3, "hypothesis": 3, "right": 3,
    }  # fmt: skip
    assert ideal["spans_exact"]["precision"] == pytest.approx(2 / 3)
    # of the transcripts 30개 is a wrong span, and 15,000원 one whose value is right
    assert heard["sentences_exact"] == 0.5 and heard["sentences_value_right"] == 0.5
    assert heard["spans_value_right"]["found"] == 2 and heard["spans_value_right"]["right"] == 2
    lines = [json.loads(line) for line in (out / "predictions.jsonl").open(encoding="utf-8")]
    assert [line["pred_written"] for line in lines] == [
        "3시에 만나요", "15,000원이에오", "30개 샀어", "그냥 갔어",
    ]  # fmt: skip
    assert "written CER" in done.stdout and "span recall, value right" in done.stdout
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "The written form" in page and "span precision, exact" in page


def test_a_style_closer_to_the_reference_is_chosen(predictions, tmp_path):
    out = tmp_path / "out"
    done = run("recipes/evaluate.py", "--predictions", predictions, "--out", out, "--style", "commas=none")
    assert done.returncode == 0, done.stderr
    card = json.loads((out / "scores.json").read_text(encoding="utf-8"))["written"]
    assert card["style"] == {"commas": "none"}
    bad = run("recipes/evaluate.py", "--predictions", predictions, "--out", out, "--style", "commas=some")
    assert "style commas is 'some'" in sentence(bad)


def test_without_dual_transcriptions_nothing_is_added(predictions, tmp_path):
    rows = [json.loads(line) for line in predictions.read_text(encoding="utf-8").splitlines()]
    plain = [{key: row[key] for key in row if key not in ("written", "spoken")} for row in rows]
    predictions.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in plain), encoding="utf-8"
    )
    out = tmp_path / "out"
    done = run("recipes/evaluate.py", "--predictions", predictions, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "written" not in json.loads((out / "scores.json").read_text(encoding="utf-8"))
    assert "pred_written" not in (out / "predictions.jsonl").read_text(encoding="utf-8")
    assert "The written form" not in (out / "report.html").read_text(encoding="utf-8")


def test_a_side_that_is_no_text_is_refused(predictions, tmp_path):
    row = {"audio_filepath": "/a/9.flac", "duration": 1.0, "text": "가", "pred_text": "가", "written": 3}
    with predictions.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    done = run("recipes/evaluate.py", "--predictions", predictions, "--out", tmp_path / "out")
    assert "predictions.jsonl:5: written is 3, not a text" in sentence(done)
