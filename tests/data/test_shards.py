"""recipes/shard_manifest.py: what NeMo's own loader reads from the shards is the manifest, bit for bit."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run

from ko_asr.audio.espeak import synthesize
from ko_asr.data.manifest import read_manifest, write_manifest
from ko_asr.data.shards import bucket_duration_bins

ROOT = Path(__file__).resolve().parents[2]


def shard(*arguments: object) -> subprocess.CompletedProcess:
    return run("recipes/shard_manifest.py", *arguments)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    """Forty utterances: FLAC, WAV, a name like a NeMo segment's, 22 kHz stereo, segments of one file."""
    folder = tmp_path_factory.mktemp("corpus")
    entries = []
    for number in range(36):
        samples = np.round(synthesize(f"문장 {number} 번", rate=150 + 2 * number) * 32767).astype(np.int16)
        name = ("a-sub1.flac", "b.c.wav")[number] if number < 2 else f"말 {number}.flac"
        soundfile.write(folder / name, samples, 16_000)
        entries.append(
            {
                "audio_filepath": str(folder / name),
                "duration": len(samples) / 16_000,
                "text": f"문장 {number}",
                "speaker": f"s{number % 3}",
            }
        )
    stereo = np.repeat(synthesize("스테레오")[:, None], 2, axis=1)
    soundfile.write(folder / "stereo.wav", stereo, 22_050)
    entries.append(
        {
            "audio_filepath": str(folder / "stereo.wav"),
            "duration": len(stereo) / 22_050,
            "text": "스테레오",
            "speaker": "s1",
        }
    )
    long = np.round(np.sin(np.arange(16_000 * 6) * np.linspace(0.01, 0.3, 16_000 * 6)) * 9999).astype(
        np.int16
    )
    soundfile.write(folder / "long.flac", long, 16_000)
    for number in range(3):
        entries.append(
            {
                "audio_filepath": str(folder / "long.flac"),
                "offset": 1.5 * number,
                "duration": 1.25,
                "text": f"조각 {number}",
                "speaker": "s2",
            }
        )
    write_manifest(folder / "m.jsonl", entries)
    return folder / "m.jsonl"


def expected_samples(entry: dict) -> np.ndarray:
    start = round(entry.get("offset", 0) * 16_000)
    return soundfile.read(
        entry["audio_filepath"], start=start, frames=round(entry["duration"] * 16_000), dtype="float32"
    )[0]


def loaded(out: Path, **options: object) -> list:
    """Every cut that NeMo's Lhotse data loader gives for a folder's input_cfg.yaml."""
    from ko_asr.models.nemo_file import quiet_nemo

    quiet_nemo()
    import torch
    from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config
    from omegaconf import OmegaConf

    class Cuts(torch.utils.data.Dataset):
        def __getitem__(self, cuts):
            return cuts

    config = {
        "input_cfg": str(out / "input_cfg.yaml"),
        "sample_rate": 16000,
        "shuffle": True,
        "num_workers": 0,
        "force_finite": True,
        "seed": 3,
        "shard_seed": 3,
        "pin_memory": False,
        **options,
    }
    loader = get_lhotse_dataloader_from_config(OmegaConf.create(config), 0, 1, dataset=Cuts())
    return [cut for batch in loader for cut in batch]


@pytest.mark.slow
@pytest.mark.parametrize("format", ["tarred", "shar"])
def test_nemo_reads_from_shards_what_the_manifest_says(manifest, tmp_path, format):
    out = tmp_path / "sh ards"
    done = shard(
        "--manifest",
        manifest,
        "--out",
        out,
        "--format",
        format,
        "--utterances-per-shard",
        12,
        "--num-buckets",
        3,
        "--jobs",
        2,
    )
    assert done.returncode == 0, done.stderr
    assert "40 utterances in 3" in done.stdout
    bins = json.loads((out / "shards.json").read_text(encoding="utf-8"))["bucket_duration_bins"]
    cuts = loaded(
        out,
        batch_duration=20,
        use_bucketing=True,
        num_buckets=3,
        bucket_duration_bins=bins,
        bucket_buffer_size=100,
    )
    assert len(cuts) == 40
    entries = {entry["text"]: entry for entry in read_manifest(manifest)}
    assert {cut.supervisions[0].text for cut in cuts} == set(entries)
    for cut in cuts:
        entry = entries[cut.supervisions[0].text]
        assert cut.duration == pytest.approx(entry["duration"], abs=1e-3)
        assert cut.custom["speaker"] == entry["speaker"]
        if cut.supervisions[0].text != "스테레오":  # resampled
            assert np.array_equal(cut.load_audio()[0], expected_samples(entry))


def test_bucketing_bins_hold_equal_seconds_as_lhotses():
    from lhotse import MonoCut
    from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

    durations = np.round(np.random.default_rng(0).gamma(4, 1.2, 3000), 3)
    ours = bucket_duration_bins(durations, 8)
    theirs = estimate_duration_buckets([MonoCut(str(d), 0, float(d), 0) for d in durations], 8)
    assert len(ours) == 7 and ours == pytest.approx([float(edge) for edge in theirs], rel=0.02)
    places = np.searchsorted(ours, durations, side="right")
    seconds = np.bincount(places, durations)
    assert seconds.min() > 0.98 * durations.sum() / 8 and seconds.max() < 1.02 * durations.sum() / 8


def test_a_killed_run_goes_on_and_gives_the_same_bytes(manifest, tmp_path):
    many = [entry | {"text": f"{entry['text']} {k}"} for k in range(60) for entry in read_manifest(manifest)]
    write_manifest(tmp_path / "many.jsonl", many)
    arguments = ["--manifest", str(tmp_path / "many.jsonl"), "--utterances-per-shard", "150"]
    whole = shard(*arguments, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr

    out = tmp_path / "killed"
    running = subprocess.Popen(
        [sys.executable, "recipes/shard_manifest.py", *arguments, "--out", str(out)],
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    while not list(out.glob("shards/manifest_*")) and running.poll() is None:
        time.sleep(0.01)
    running.kill()
    running.wait()
    finished = {path.stem.split("_")[1] for path in out.glob("shards/manifest_*")}
    assert 0 < len(finished) < 16, "killed too late to test anything"
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("shards/manifest_*")}
    (out / "shards" / ".audio_9.tar.x.tmp").write_bytes(b"half")

    again = shard(*arguments, "--out", out, "--jobs", 2)
    assert again.returncode == 0, again.stderr
    assert contents_of(out / "shards") == contents_of(tmp_path / "whole" / "shards")
    assert all((out / "shards" / name).stat().st_mtime_ns == when for name, when in before.items())

    changed = shard(*arguments, "--out", out, "--seed", 1)
    assert changed.returncode == 2 and "another plan (seed differ)" in changed.stderr


@pytest.mark.slow
def test_unreadable_audio_is_left_out_named_and_counted(manifest, tmp_path):
    entries = list(read_manifest(manifest))
    (tmp_path / "broken.flac").write_bytes(b"fLaC" + bytes(50))
    bad = {"duration": 1.0, "text": "나쁨"}
    entries += [
        bad | {"audio_filepath": str(tmp_path / "broken.flac")},
        bad | {"audio_filepath": str(tmp_path / "gone.flac")},
    ]
    entries.append(entries[3] | {"duration": 99.0})
    write_manifest(tmp_path / "m.jsonl", entries)
    done = shard("--manifest", tmp_path / "m.jsonl", "--out", tmp_path / "out", "--utterances-per-shard", 20)
    assert done.returncode == 2 and "7.0% of the utterances were left out" in done.stderr
    report = json.loads((tmp_path / "out" / "shards.json").read_text(encoding="utf-8"))
    reasons = {Path(row["audio_filepath"]).name: row["reason"] for row in report["rejected"]}
    assert report["utterances"] == 40 and len(report["rejected"]) == 3
    assert "not readable" in reasons["broken.flac"] and reasons["gone.flac"] == "No such file or directory"
    assert any("the manifest says 99.00 s" in reason for reason in reasons.values())
    assert len(loaded(tmp_path / "out", batch_size=8)) == 40
    tolerant = shard(
        "--manifest",
        tmp_path / "m.jsonl",
        "--out",
        tmp_path / "out",
        "--utterances-per-shard",
        20,
        "--max-rejected",
        0.1,
    )
    assert tolerant.returncode == 0, tolerant.stderr


def test_bad_input_is_one_sentence(manifest, tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n", encoding="utf-8")
    (tmp_path / "torn.jsonl").write_text(
        '{"audio_filepath": "a.flac", "duration": 1.0, "te', encoding="utf-8"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine", encoding="utf-8")
    cases = [
        (tmp_path / "no.jsonl", "out", "no manifest at"),
        (tmp_path / "empty.jsonl", "out", "holds no utterance"),
        (tmp_path / "torn.jsonl", "out", "torn.jsonl:1"),
        (manifest, "full", "is not empty and holds no shards of this script"),
    ]
    for source, folder, expected in cases:
        done = shard("--manifest", source, "--out", tmp_path / folder)
        assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr, (
            done.stderr
        )
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """A folder corpus of thirty utterances, one of them broken, one without text."""
    folder = tmp_path_factory.mktemp("own") / "corpus"
    for number in range(30):
        path = folder / "train" / f"방-sub{number % 3}" / f"{number:02}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.round(synthesize(f"문장 {number}") * 32767).astype(np.int16), 16_000)
        path.with_suffix(".txt").write_text(f"문장 {number}" if number != 7 else "...", encoding="utf-8")
    (folder / "train" / "방-sub2" / "29.wav").write_bytes(b"RIFF")
    return folder


def prepare(corpus: Path, out: Path, *options: str) -> subprocess.CompletedProcess:
    usual = ("--tokenizers", "--max-rejected", "0.1")
    return run("recipes/prepare_folder.py", "--corpus", corpus, "--out", out, *usual, *options)


@pytest.mark.slow
def test_a_corpus_goes_straight_into_shards(corpus, tmp_path):
    files = prepare(corpus, tmp_path / "files", "--jobs", "1")
    done = prepare(corpus, tmp_path / "out", "--shards", "8", "--jobs", "2")
    assert files.returncode == done.returncode == 0, done.stderr
    shards = tmp_path / "out" / "shards" / "train"
    assert len(list(shards.glob("audio_*.tar"))) == 4 and not list((tmp_path / "out").rglob("*.flac"))
    cuts = loaded(shards, batch_size=4)
    expected = {
        entry["text"]: entry["audio_filepath"] for entry in read_manifest(tmp_path / "files" / "train.jsonl")
    }
    assert len(cuts) == 28 and {cut.supervisions[0].text for cut in cuts} == set(expected)
    for cut in cuts:
        single = soundfile.read(expected[cut.supervisions[0].text], dtype="float32")[0]
        assert np.array_equal(cut.load_audio()[0], single)
    audits = [
        json.loads((tmp_path / name / "audit.json").read_text(encoding="utf-8")) for name in ("files", "out")
    ]
    assert audits[0]["splits"]["train"]["rejected"] == audits[1]["splits"]["train"]["rejected"]


@pytest.mark.slow
def test_shards_of_a_corpus_are_reused_and_changed_sources_are_not(corpus, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    assert prepare(copy, tmp_path / "out", "--shards", "8", "--jobs", "1").returncode == 0
    shards = tmp_path / "out" / "shards" / "train"
    before = {path.name: path.stat().st_mtime_ns for path in shards.glob("audio_*.tar")}
    contents_before = contents_of(shards)
    (shards / "keys" / "3.json").unlink()  # as after a kill: the tar is there, its note is not
    (copy / "train" / "방-sub0" / "00.txt").write_text("다른 말", encoding="utf-8")
    assert prepare(copy, tmp_path / "out", "--shards", "8", "--jobs", "1").returncode == 0
    after = {path.name: path.stat().st_mtime_ns for path in shards.glob("audio_*.tar")}
    assert {name for name in before if before[name] != after[name]} == {"audio_3.tar"}
    changed = {name for name, data in contents_of(shards).items() if data != contents_before[name]}
    assert changed == {"manifest_0.json"}, (
        "another text changes a manifest only, and the bytes are the same again"
    )

    soundfile.write(
        copy / "train" / "방-sub0" / "03.wav",
        np.round(synthesize("새 소리") * 32767).astype(np.int16),
        16_000,
    )
    for path in (copy / "train" / "방-sub2").iterdir():
        path.unlink()  # ten fewer utterances: one shard fewer
    again = prepare(copy, tmp_path / "out", "--shards", "8", "--jobs", "1")
    assert again.returncode == 0, again.stderr
    assert sorted(path.name for path in shards.glob("audio_*.tar")) == [
        "audio_0.tar",
        "audio_1.tar",
        "audio_2.tar",
    ]
    assert len(loaded(shards, batch_size=4)) == 19


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
