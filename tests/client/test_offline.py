"""recipes/transcribe_client.py by its front door, against the demo model's server."""

import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from ko_asr.audio.read import read_audio
from ko_asr.client.connection import ServerError
from ko_asr.client.offline import AsrClient, AsyncAsrClient, Transcription
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError
from ko_asr.serving.server import free_ports

ROOT = Path(__file__).resolve().parents[2]
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
    assert wanted.words == ()
    assert lines[0]["text"] == lines[1]["text"] == wanted.text
    assert lines[0]["confidence"] == pytest.approx(wanted.confidence, abs=1e-4)
    assert all(line["duration"] == pytest.approx(len(samples) / 16_000, abs=2e-3) for line in lines)
    assert all(0 < line["latency_ms"] < 10_000 for line in lines)


def test_words_from_the_command_and_from_many_requests_of_one_event_loop(demo) -> None:
    utterances = list(read_manifest(demo.manifests["eval_clean"]))[:8]
    done = run(*(entry["audio_filepath"] for entry in utterances), "--url", demo.url, "--words")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]

    async def together() -> list[Transcription]:
        async with AsyncAsrClient(demo.url) as client:
            clips = [read_audio(entry["audio_filepath"]) for entry in utterances]
            with pytest.raises(ServerError, match="INVALID_ARGUMENT"):
                await client.transcribe(clips[0], 8000)
            return await asyncio.gather(*(client.transcribe(clip, words=True) for clip in clips))

    for line, transcript in zip(lines, asyncio.run(together()), strict=True):
        assert line["text"] == transcript.text == " ".join(word["text"] for word in transcript.words)
        times = [time for word in transcript.words for time in (word["start_ms"], word["end_ms"])]
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= 1000 * line["duration"] + 100
        assert [word["start_ms"] for word in line["words"]] == times[::2]


def test_a_machine_that_only_talks_to_the_server_needs_neither_torch_nor_nemo(demo, tmp_path: Path) -> None:
    """pip install '.[client]' in an environment of its own; pip builds in the folder, so in a copy of it."""
    checkout, environment = tmp_path / "checkout", tmp_path / "client"
    shutil.copytree(
        ROOT / "src", checkout / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]
    made = subprocess.run([*pip, "install", "-q", f"{checkout}[client]"], capture_output=True, text=True)
    if made.returncode and "No matching distribution" in made.stderr:
        pytest.skip("the client's packages cannot be downloaded here")
    assert made.returncode == 0, made.stderr
    original, samples = utterance(demo)
    # -I: neither this folder nor PYTHONPATH is searched for modules.
    command = [python, "-I", SCRIPT, original, "--url", demo.url]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with AsrClient(demo.url) as client:
        assert json.loads(done.stdout)["text"] == client.transcribe(samples).text
    help_of_streams = [python, "-I", SCRIPT.with_name("stream_client.py"), "--help"]
    assert subprocess.run(help_of_streams, capture_output=True, cwd=tmp_path).returncode == 0
    installed = {path.name for path in (environment / "lib").glob("python*/site-packages/*")}
    assert "tritonclient" in installed and not installed & {"torch", "nemo", "onnxruntime", "lightning"}
    (package,) = (environment / "lib").glob("python*/site-packages/ko_asr")
    library = ROOT / "src/ko_asr"
    data = {path.relative_to(library) for kind in ("*.yaml", "*.j2") for path in library.rglob(kind)}
    assert len(data) >= 6
    assert not [path for path in (*data, "py.typed") if not (package / path).is_file()]


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


def test_keywords_of_the_command_are_those_of_the_client(demo) -> None:
    path, samples = utterance(demo)
    done = run(path, "--url", demo.url, "--keyword", "가나다라:5", "--keyword", "서울 시청")
    assert done.returncode == 0, done.stderr
    with AsrClient(demo.url) as client:
        assert (
            json.loads(done.stdout)["text"]
            == client.transcribe(samples, keywords=["가나다라:5", "서울 시청"]).text
        )
    done = run(path, "--url", demo.url, "--keyword", "철수:많이")
    assert done.returncode == 2 and "'철수:많이' is no keyword" in done.stderr


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
