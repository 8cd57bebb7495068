"""recipes/evaluate.py through its front door, on a small model with random weights and synthetic speech.

What a trained model scores is tested with the demo; here every figure of the files is checked against the
transcripts in them, and every kind of bad input ends in one sentence.
"""

import json
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from commands import run

from ko_asr.audio.espeak import synthesize
from ko_asr.audio.read import read_segment
from ko_asr.data.manifest import read_manifest, write_manifest
from ko_asr.errors import UserError
from ko_asr.evaluation.scorecard import compare, scorecard
from ko_asr.models.transcribe import check_vocabulary, load_transcriber

ROOT = Path(__file__).resolve().parents[2]
SENTENCES = [
    "오늘 날씨가 정말 좋다",
    "값이 싸다",
    "닭을 먹었다",
    "밖에서 친구와 책을 읽는다",
    "학교에 갔습니다 없어요",
]


def evaluate(*arguments: object) -> subprocess.CompletedProcess:
    return run("recipes/evaluate.py", *arguments)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Fifteen utterances, one of them half a second long, one a segment of a longer file at 22.05 kHz."""
    folder = tmp_path_factory.mktemp("speech")
    entries = []
    for number in range(15):
        text = SENTENCES[number % 5]
        samples = synthesize(text, rate=150 + 10 * (number % 3))
        path = folder / f"u{number:02}.flac"
        soundfile.write(path, samples, 16_000)
        entries.append(
            {
                "audio_filepath": str(path),
                "duration": len(samples) / 16_000,
                "text": text,
                "speaker": f"s{number % 3}",
            }
        )
    short = synthesize("네")[:8000]
    soundfile.write(folder / "short.flac", short, 16_000)
    entries.append(
        {
            "audio_filepath": str(folder / "short.flac"),
            "duration": len(short) / 16_000,
            "text": "네",
            "speaker": "s0",
        }
    )
    long = np.concatenate(
        [np.zeros(22_050), np.tile(synthesize("값이 싸다")[:8000] / 32768, 4), np.zeros(22_050)]
    )
    soundfile.write(folder / "long.wav", long, 22_050)
    entries.append(
        {
            "audio_filepath": str(folder / "long.wav"),
            "offset": 1.0,
            "duration": 1.2,
            "text": "값이 싸다",
            "speaker": "s1",
        }
    )
    write_manifest(folder / "m.jsonl", entries)
    return folder / "m.jsonl"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A jamo FastConformer-CTC of the demo's kind with random weights."""
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from ko_asr.models.nemo_file import quiet_nemo

    quiet_nemo()
    from nemo.collections.asr.models import EncDecCTCModelBPE

    small = ["model.encoder.d_model=96", "model.encoder.n_layers=4", "model.encoder.subsampling_factor=8"]
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "fastconformer_ko_demo", overrides=[*small, f"data.tokenizer={ROOT}/tokenizers/jamo"]
        )
    plain = OmegaConf.create(OmegaConf.to_container(config.model, resolve=True))
    plain.train_ds = plain.validation_ds = None
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "random.nemo"
    EncDecCTCModelBPE(cfg=plain).save_to(str(path))
    return path


@pytest.fixture(scope="module")
def evaluated(model, manifest, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    done = evaluate("--model", model, "--manifest", manifest, "--out", out, "--batch-size", 4)
    assert done.returncode == 0, done.stderr
    return out, done


@pytest.fixture(scope="module")
def restored(model):
    return load_transcriber(model, "cpu")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_the_transcripts_are_nemos_own(evaluated, restored, manifest):
    import torch

    restored.cfg.validation_ds = {}  # NeMo's file loader looks in it
    predictions = lines(evaluated[0] / "predictions.jsonl")
    assert [p["text"] for p in predictions] == [m["text"] for m in lines(manifest)]
    # NeMo's file loader pads what is shorter than a second
    full_seconds = [p for p in predictions if p["duration"] >= 1 and "offset" not in p]
    assert len(full_seconds) >= 10
    alone = restored.transcribe([p["audio_filepath"] for p in full_seconds], batch_size=1, verbose=False)
    assert [p["pred_text"] for p in full_seconds] == [hypothesis.text for hypothesis in alone]
    # the short clip is heard as it is: the model's own forward, without padding
    short = next(p for p in predictions if p["text"] == "네")
    restored.eval()  # NeMo's transcribe() leaves the encoder in training mode
    samples = torch.from_numpy(soundfile.read(short["audio_filepath"], dtype="float32")[0])
    with torch.inference_mode():
        logits, length, _ = restored(
            input_signal=samples[None], input_signal_length=torch.tensor([len(samples)])
        )
        heard = restored.decoding.ctc_decoder_predictions_tensor(logits, decoder_lengths=length)
    assert short["pred_text"] == heard[0].text


@pytest.mark.slow
def test_every_figure_follows_from_the_transcripts(evaluated):
    out, done = evaluated
    predictions = lines(out / "predictions.jsonl")
    scores = json.loads((out / "scores.json").read_text(encoding="utf-8"))
    texts = [p["text"] for p in predictions], [p["pred_text"].lower() for p in predictions]
    heard = [
        " ".join(t.replace("?", "").replace(".", "").replace(",", "").replace("!", "").split())
        for t in texts[1]
    ]
    assert scores["metrics"]["cer"]["rate"] == pytest.approx(jiwer.cer(texts[0], heard))
    assert scores["metrics"]["wer"]["rate"] == pytest.approx(jiwer.wer(texts[0], heard))
    assert scores["headline"]["metric"] == "cer" and scores["utterances"] == 17
    assert {row["value"] for row in scores["slices"]["speaker"]} == {"s0", "s1", "s2"}
    assert sum(row["utterances"] for row in scores["slices"]["duration"]) == 17
    assert scores["model"]["parameters"] > 100_000 and len(scores["model"]["sha256"]) == 64
    assert scores["rtfx"] > 0 and "evaluate.py" in scores["command"] and "nemo_toolkit" in scores["versions"]
    assert "RTFx" in done.stdout and "next: python export/to_triton.py" in done.stdout
    assert "Traceback" not in done.stderr and "[NeMo" not in done.stderr


@pytest.mark.slow
def test_the_report_is_one_page_that_needs_nothing_else(evaluated):
    page = (evaluated[0] / "report.html").read_text(encoding="utf-8")
    found: dict[str, int] = {}

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found[tag] = found.get(tag, 0) + 1
            for name, value in attrs:
                assert name not in ("src", "href") or value.startswith(("data:", "#")), value

    Reader().feed(page)
    assert found["svg"] >= 4 and found["audio"] >= 10 and "닭을" in page


@pytest.mark.slow
def test_a_model_is_scored_on_the_written_side_of_its_manifest(model, manifest, tmp_path):
    entries = list(read_manifest(manifest))[:4]
    entries[1] |= {"text": "세 시에 와", "written": "3시에 와"}
    write_manifest(tmp_path / "m.jsonl", entries)
    done = evaluate("--model", model, "--manifest", tmp_path / "m.jsonl", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    card = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert card["written"]["dual"] == 1 and card["written"]["references"]["sentences_exact"] == 1.0
    assert card["written"]["transcripts"]["spoken_cer"]["rate"] == card["metrics"]["cer"]["rate"]
    assert set(card["slices"]) == {"duration", "speaking rate", "speaker"}


@pytest.mark.slow
def test_scoring_other_peoples_transcripts_and_comparing(evaluated, tmp_path):
    better = lines(evaluated[0] / "predictions.jsonl")
    for entry in better[:12]:
        entry["pred_text"] = entry["text"]
    write_manifest(tmp_path / "better.jsonl", better)
    done = evaluate(
        "--predictions", tmp_path / "better.jsonl", "--out", tmp_path / "out", "--profile", "icefall",
        "--against", evaluated[0], "--by", "speaker", "--bootstrap-by", "speaker",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert scores["headline"]["metric"] == "cer_no_spaces"
    against = scores["against"]["metrics"]["cer_no_spaces"]
    assert against["this"] < against["other"] and against["interval95"][1] < 0 and against["p_value"] < 0.05


def test_perfect_transcripts_score_zero_and_slices_add_up():
    entries = [
        {
            "audio_filepath": f"/a/{k}.flac",
            "duration": k + 0.5,
            "text": text,
            "pred_text": text,
            "gender": "FM"[k % 2],
        }
        for k, text in enumerate(SENTENCES)
    ]
    card, _ = scorecard(entries)
    assert all(row["rate"] == 0 for row in card["metrics"].values())
    assert card["slices"]["gender"] == [
        {"value": "F", "utterances": 3, "cer": 0.0, "interval95": [0.0, 0.0], "wer": 0.0, "coda": 0.0},
        {"value": "M", "utterances": 2, "cer": 0.0, "interval95": [0.0, 0.0], "wer": 0.0, "coda": 0.0},
    ]
    assert compare(entries, entries, "plain")["wer"]["p_value"] == 1.0


def test_a_measure_is_sliced_into_quarters_and_a_category_by_its_values():
    entries = [
        {"audio_filepath": f"/a/{k}.flac", "duration": 1.0, "text": "가", "pred_text": "가나"[: 1 + (k > 14)]}
        | {"age": 20 + k, "level": k % 3, "name": f"n{k}"}
        for k in range(20)
    ]
    slices = scorecard(entries)[0]["slices"]
    assert [(row["value"], row["utterances"], row["cer"]) for row in slices["age"]] == [
        ("20 to 24.75", 5, 0.0),
        ("24.75 to 29.5", 5, 0.0),
        ("29.5 to 34.25", 5, 0.0),
        ("34.25 to 39", 5, 1.0),
    ]
    assert [row["value"] for row in slices["level"]] == ["0", "1", "2"] and len(slices["name"]) == 20


def test_systems_that_ran_on_other_utterances_are_not_compared():
    entry = {"audio_filepath": "/a/1.flac", "duration": 1.0, "text": "가", "pred_text": "가"}
    with pytest.raises(UserError, match="1 of 2 are missing"):
        compare([entry, entry | {"audio_filepath": "/a/2.flac"}], [entry], "plain")


def bad_manifest(folder: Path, name: str, entries: list[dict]) -> Path:
    (folder / name).write_text("".join(json.dumps(e) + "\n" for e in entries), encoding="utf-8")
    return folder / name


@pytest.mark.slow
def test_bad_input_is_one_sentence_and_leaves_nothing(model, manifest, tmp_path):
    whole = model.read_bytes()
    (tmp_path / "cut.nemo").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.nemo").write_text("not a model", encoding="utf-8")
    (tmp_path / "file").write_text("", encoding="utf-8")
    gone = bad_manifest(
        tmp_path, "gone.jsonl", [{"audio_filepath": "no.flac", "duration": 1.0, "text": "가"}]
    )
    empty = bad_manifest(tmp_path, "empty.jsonl", [])
    no_text = bad_manifest(tmp_path, "no_text.jsonl", [{"audio_filepath": "no.flac", "duration": 1.0}])
    (tmp_path / "torn.jsonl").write_text('{"audio_filepath": "a.fl', encoding="utf-8")
    out = tmp_path / "out"
    cases = [
        (("--model", tmp_path / "no.nemo", "--manifest", manifest), "no model at"),
        (("--model", tmp_path / "cut.nemo", "--manifest", manifest), "not a whole .nemo file"),
        (("--model", tmp_path / "text.nemo", "--manifest", manifest), "not a whole .nemo file"),
        (("--model", model, "--manifest", tmp_path / "no.jsonl"), "no manifest at"),
        (("--model", model, "--manifest", gone), "1 of 1 audio files"),
        (("--model", model, "--manifest", empty), "holds no utterance"),
        (("--model", model, "--manifest", no_text), "no text or no duration"),
        (("--model", model, "--manifest", tmp_path / "torn.jsonl"), "torn.jsonl:1"),
        (
            ("--model", model, "--manifest", manifest, "--by", "dialect"),
            "has the field 'dialect'; it has speaker",
        ),
        (("--model", model, "--manifest", manifest, "--bootstrap-by", "room"), "'room' does not divide"),
        (("--predictions", manifest), "has no 'pred_text'"),
        (("--predictions", tmp_path / "nowhere"), "no predictions at"),
    ]
    for arguments, expected in cases:
        done = evaluate(*arguments, "--out", out)
        assert done.returncode == 2, (arguments, done.stderr)
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and expected in done.stderr
        assert not out.exists() or not list(out.iterdir())
    done = evaluate("--model", model, "--manifest", manifest, "--out", tmp_path / "file" / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_model_of_another_vocabulary_is_refused(restored):
    assert check_vocabulary(restored, SENTENCES) == 0.0
    assert check_vocabulary(restored, ["값이 싸다 漢"]) == pytest.approx(1 / 5)
    with pytest.raises(
        UserError, match="the model's vocabulary cannot write 100% of the manifest's characters"
    ):
        check_vocabulary(restored, ["สวัสดีครับ"])


@pytest.mark.slow
def test_one_unreadable_utterance_leaves_the_scores_of_the_others(model, manifest, tmp_path):
    entries = list(read_manifest(manifest))[:4]
    noise, nan = tmp_path / "no_audio.flac", tmp_path / "nan.wav"
    noise.write_bytes(b"<html>404</html>" * 50)
    soundfile.write(nan, np.r_[np.zeros(8000), np.nan, np.zeros(8000)], 16_000, subtype="FLOAT")
    bad = [{"audio_filepath": str(path), "duration": 1.0, "text": "네"} for path in (noise, nan)]
    write_manifest(tmp_path / "m.jsonl", [*entries[:2], *bad, *entries[2:]])
    done = evaluate("--model", model, "--manifest", tmp_path / "m.jsonl", "--out", tmp_path / "out")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "2 of 6 utterances could not be read and are in no score" in done.stdout
    listed = (tmp_path / "out" / "unreadable.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Path(json.loads(line)["audio_filepath"]).name for line in listed] == [noise.name, nan.name]
    predictions = list(read_manifest(tmp_path / "out" / "predictions.jsonl"))
    assert [entry["text"] for entry in predictions] == [entry["text"] for entry in entries]
    write_manifest(tmp_path / "all.jsonl", bad)
    done = evaluate("--model", model, "--manifest", tmp_path / "all.jsonl", "--out", tmp_path / "none")
    assert done.returncode == 2 and "no audio of" in done.stderr and "Traceback" not in done.stderr


def test_unreadable_audio_is_named(tmp_path):
    (tmp_path / "broken.flac").write_bytes(b"fLaC" + bytes(100))
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    for name, expected in (("broken.flac", "cannot read the audio .*broken.flac"), ("empty.wav", "is empty")):
        with pytest.raises(UserError, match=expected):
            read_segment({"audio_filepath": str(tmp_path / name), "duration": 1.0}, 16_000)
