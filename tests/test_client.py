"""recipes/transcribe_client.py by its front door, against the demo model's server."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from ko_asr.client import AsrClient, read_audio
from ko_asr.errors import UserError
from ko_asr.manifest import read_manifest
from ko_asr.server import free_ports

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "recipes" / "transcribe_client.py"


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True, check=False
    )


def utterance(demo) -> tuple[Path, np.ndarray]:
    path = Path(next(read_manifest(demo.manifests["eval_clean"]))["audio_filepath"])
    return path, soundfile.read(path, dtype="float32")[0]


def test_files_of_any_format_rate_and_channels(demo, tmp_path: Path) -> None:
    original, samples = utterance(demo)
    studio = soxr.resample(samples, 16_000, 48_000, quality="VHQ")
    files = {"mono.wav": (samples, 16_000), "이름 에 빈칸.flac": (np.stack([studio, studio], 1), 48_000)}
    for name, (data, rate) in files.items():
        soundfile.write(tmp_path / name, data, rate)
    done = run(original, *(tmp_path / name for name in files), "--url", demo.url, "--concurrency", 3)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(original), *(str(tmp_path / name) for name in files)]
    assert all(set(line) == {"file", "text", "confidence", "duration", "latency_ms"} for line in lines)
    with AsrClient(demo.url) as client:
        wanted = client.transcribe(samples)
    assert lines[0]["text"] == lines[1]["text"] == wanted.text
    assert lines[0]["confidence"] == pytest.approx(wanted.confidence, abs=1e-4)
    assert all(line["duration"] == pytest.approx(len(samples) / 16_000, abs=2e-3) for line in lines)
    assert all(0 < line["latency_ms"] < 10_000 for line in lines)


def test_a_bad_file_is_a_line_and_stops_nothing(demo, tmp_path: Path) -> None:
    original, samples = utterance(demo)
    (tmp_path / "text.wav").write_text("이것은 소리가 아니다", encoding="utf-8")
    soundfile.write(tmp_path / "empty.wav", samples[:0], 16_000)
    soundfile.write(tmp_path / "blip.wav", samples[:100], 16_000)
    bad = [tmp_path / name for name in ("text.wav", "empty.wav", "blip.wav", "missing.wav")]
    done = run(*bad, original, "--url", demo.url)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line, words in zip(lines, ("no audio", "no samples", "least is 400", "no file"), strict=False):
        assert words in line["error"]
    assert lines[2]["code"] == "INVALID_ARGUMENT"
    assert "text" in lines[4]
    assert done.stderr == "4 of 5 files failed: see the lines with an error\n"


def test_a_dead_server_is_one_sentence(demo) -> None:
    url = f"127.0.0.1:{free_ports(1)[0]}"
    done = run(utterance(demo)[0], "--url", url)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: UNAVAILABLE: no server answers at {url}")
    assert len(done.stderr.strip().splitlines()) == 1


def test_resampling_keeps_a_tone_where_it_is(tmp_path: Path) -> None:
    time = np.arange(44_100) / 44_100
    left = 0.5 * np.sin(2 * np.pi * 1000 * time)
    soundfile.write(tmp_path / "tone.wav", np.stack([left, np.zeros_like(left)], 1), 44_100)
    audio = read_audio(tmp_path / "tone.wav")
    assert audio.dtype == np.float32 and abs(len(audio) - 16_000) <= 1
    spectrum = np.abs(np.fft.rfft(audio[:16_000]))
    assert spectrum.argmax() == 1000
    assert np.abs(audio[4_000:12_000]).max() == pytest.approx(0.25, abs=0.005)


def test_headerless_pcm_is_refused(tmp_path: Path) -> None:
    (tmp_path / "speech.raw").write_bytes(b"\0\1" * 1000)
    with pytest.raises(UserError, match="no audio"):
        read_audio(tmp_path / "speech.raw")
