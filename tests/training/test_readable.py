"""Audio that training cannot read is named: before the first step by its header, later as it is left out."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from commands import ROOT, run, sentence

from ko_asr.errors import UserError
from ko_asr.training import readable
from ko_asr.training.readable import NamingLoader, open_manifest, sentence_of_worker


def line(path: Path, duration: float = 1.0, **fields: float) -> dict:
    return {
        "audio_filepath": str(path),
        "duration": duration,
        "text": "가다",
        "sampling_rate": 16000,
    } | fields


@pytest.fixture
def good(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "good.wav", np.zeros(16_000), 16_000)
    return tmp_path / "good.wav"


def manifest(path: Path, *entries: dict) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def bad_lines(folder: Path, good: Path) -> dict[str, dict]:
    (folder / "page.wav").write_bytes(b"<html>404</html>" * 50)
    (folder / "empty.flac").touch()
    (folder / "cut.flac").write_bytes(b"fLaC")
    return {
        "Format not recognised": line(folder / "page.wav"),
        "the file is empty": line(folder / "empty.flac"),
        "cut.flac": line(folder / "cut.flac"),
        "No such file": line(folder / "missing.wav"),
        "lasts 1.00 s, and the manifest says 2.00 s": line(good, 2.0),
        "lasts 1.00 s, and the segment begins at 5 s": line(good, 1.0, offset=5.0),
    }


def test_what_a_header_shows(tmp_path: Path, good: Path) -> None:
    for said, entry in bad_lines(tmp_path, good).items():
        found = open_manifest(manifest(tmp_path / "m.jsonl", line(good), entry, line(good, 1.4)))
        assert found.opened == found.lines == 3
        if "lasts" not in said:  # another line of the same file is good
            assert len(found.unreadable) == 1
        assert any(said in f"{path}: {reason}" for path, reason in found.unreadable), (said, found)


def test_of_a_long_manifest_a_sample_is_opened(
    tmp_path: Path, good: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readable, "MOST_OPENED", 10)
    monkeypatch.setattr(readable, "SAMPLED", 5)
    missing = line(tmp_path / "missing.wav")
    found = open_manifest(manifest(tmp_path / "m.jsonl", *[line(good)] * 10, *[missing] * 90))
    assert (found.opened, found.lines) == (5, 100) and "of 5 of 100 utterances" in str(found)
    assert found == open_manifest(tmp_path / "m.jsonl"), "the same sample each time"


def train(folder: Path, *options: str):
    names = "--config-name", "fastconformer_ko_demo", f"data.dir={folder}", "trainer.devices=1"
    return run("recipes/train_ctc.py", *names, f"data.tokenizer={ROOT}/tokenizers/jamo", *options, cwd=folder)


@pytest.mark.parametrize("split", ["train", "dev"])
def test_training_refuses_before_nemo_is_imported(split: str, tmp_path: Path, good: Path) -> None:
    for name in ("train", "dev"):
        manifest(tmp_path / f"{name}.jsonl", *[line(good)] * 4)
    page = bad_lines(tmp_path, good)["Format not recognised"]
    manifest(tmp_path / f"{split}.jsonl", *[line(good)] * 4, page, page)
    said = sentence(train(tmp_path))
    assert f"2 of all 6 utterances of {tmp_path}/{split}.jsonl cannot be read" in said
    assert "page.wav: Format not recognised" in said and "max_unreadable=" in said


def test_a_byte_order_mark_is_named_with_its_cure(tmp_path: Path, good: Path) -> None:
    for name in ("train", "dev"):
        path = manifest(tmp_path / f"{name}.jsonl", *[line(good)] * 4)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    said = sentence(train(tmp_path, "max_infeasible=1"))
    assert "dev.jsonl begins with a byte order mark" in said and "sed -i" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--size", "s"), "no option --size: keys of the config are written size=VALUE"),
        (("--config-name", "fastconformer_ko", "--resume", "max_unknown=1"), "no option --resume"),
        (("size", "=", "s"), "'size' is no key=value: write it without spaces"),
        (("size=", "s"), "'s' is no key=value"),
        (
            ("size=s", "--config-name", "fastconformer_ko", "max_unknown=1"),
            "max_unknown=1 stands after another",
        ),
        (("--config-name",), "the command line cannot be read"),
    ],
)
def test_a_slip_on_the_command_line_is_a_sentence(arguments: tuple[str, ...], said: str, tmp_path) -> None:
    assert said in sentence(run("recipes/train_ctc.py", *arguments, cwd=tmp_path))


class Cut(SimpleNamespace):
    """What the loader needs of one of Lhotse's."""

    def load_audio(self) -> None:
        if "bad" in self.id:
            raise RuntimeError(f"Reading audio from '{self.id}' failed\nDetails")


def loaded(cuts: list[Cut]) -> tuple[None, None, list[Cut]]:
    """As Lhotse's AudioSamples: fault tolerant, but not where nothing is left."""
    kept = [cut for cut in cuts if "bad" not in cut.id]
    max(cut.duration for cut in kept)
    return None, None, kept


def test_what_the_loader_leaves_out_is_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cuts = [Cut(id=name, start=0.0, duration=1.0) for name in ("good", "bad.wav", "fine")]
    load = NamingLoader(loaded, tmp_path / "run" / readable.FILE)
    for _ in range(2):
        assert [cut.id for cut in load(cuts)[2]] == ["good", "fine"]
    lines = (tmp_path / "run" / readable.FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(each)["audio_filepath"] for each in lines] == ["bad.wav"]
    assert capsys.readouterr().err.count("left out of training: bad.wav (Reading audio") == 1
    readable.report_unreadable(load.log)
    assert "1 files could not be read" in capsys.readouterr().out
    with pytest.raises(
        UserError, match=r"none of the 1 utterances of a batch can be read, the first is bad\.wav"
    ):
        load(cuts[1:2])


def test_an_error_of_a_loaders_process_is_its_own_sentence() -> None:
    told = UserError("Caught UserError in DataLoader worker process 0.\n...\nUserError: no audio at a.wav\n")
    assert str(sentence_of_worker(told)) == "no audio at a.wav"
    assert str(sentence_of_worker(UserError("no audio"))) == "no audio"
