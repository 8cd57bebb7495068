"""recipes/stream.py by its front door: on a terminal, in real time, with the streaming demo model."""

import importlib.util
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run

from ko_asr.data.manifest import read_manifest
from ko_asr.models.frame_model import FrameModel
from ko_asr.recognition.latency import LatencyMeter
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.greedy import GreedyDecoder
from ko_asr.runtime.results import Result, Word

ROOT = Path(__file__).resolve().parents[2]
FINAL = re.compile(r"^ *([\d.]+) +([\d.]+)  (.+)  \((\d\.\d\d)\)$")


def on_a_terminal(*arguments: object) -> tuple[int, str, str]:
    """Exit status, what the terminal saw, and standard error."""
    terminal, inside = pty.openpty()
    command = [sys.executable, "recipes/stream.py", *map(str, arguments)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=inside, stderr=subprocess.PIPE, encoding="utf-8")
    os.close(inside)
    seen = b""
    try:
        while block := os.read(terminal, 4096):
            seen += block
    except OSError:  # Linux says so when the last writer has closed
        pass
    os.close(terminal)
    return child.wait(), seen.decode(), child.stderr.read()


def test_live_view_of_a_file_in_real_time(demo, streaming_model: Path, tmp_path: Path) -> None:
    entries = list(read_manifest(demo.manifests["eval_clean"]))[:2]
    parts = [soundfile.read(entry["audio_filepath"], dtype="float32")[0] for entry in entries]
    samples = np.r_[parts[0], np.zeros(12_800, np.float32), parts[1]]
    soundfile.write(tmp_path / "둘.wav", samples, 16_000, subtype="FLOAT")
    options = ("--realtime", "--model", streaming_model, "--look-ahead", 6)
    status, seen, errors = on_a_terminal(tmp_path / "둘.wav", *options)
    assert status == 0, errors
    shown = [part.rstrip() for part in seen.split("\r\x1b[K")]
    finals = [match for part in shown if (match := FINAL.match(part.strip("\r\n")))]
    assert len(shown) > len(finals) + 2 and len(finals) >= 2  # partials were written over themselves

    model = FrameModel.load(streaming_model, att_context="70,6")
    whole = GreedyDecoder(DecoderSettings(model.vocabulary, model.blank_id, model.frame_ms))
    whole.accept(*model([samples])[0])
    full_forward = "".join(whole.finish()[-1].text.split())
    assert "".join("".join(match[3].split()) for match in finals) == full_forward
    times = [float(time) for match in finals for time in match.groups()[:2]]
    assert times == sorted(times) and times[-1] <= len(samples) / 16_000 + model.frame_ms / 1000
    heard, wall = map(float, re.search(r"([\d.]+) s of audio in ([\d.]+) s", errors).groups())
    assert heard == pytest.approx(len(samples) / 16_000, abs=0.1) and wall >= heard - 0.1
    for name in ("chunk compute", "first partial", "final after speech"):
        p50, p99 = map(float, re.search(rf"{name} +p50 +([\d.]+) ms +p99 +([\d.]+) ms", errors).groups())
        assert 0 < p50 <= p99
    assert re.search(r"partials revised +\d+ of \d+", errors)


def test_finals_are_shown_as_they_are_written(demo, streaming_model: Path, tmp_path: Path) -> None:
    audio = next(read_manifest(demo.manifests["eval_clean"]))["audio_filepath"]
    terms = tmp_path / "terms.txt"
    spoken = run("recipes/stream.py", audio, "--model", streaming_model)
    first, *rest = FINAL.match(spoken.stdout.splitlines()[0])[3].split()
    terms.write_text(f"{first} -> KBS\n", encoding="utf-8")
    written = run("recipes/stream.py", audio, "--model", streaming_model, "--terms", terms)
    assert FINAL.match(written.stdout.splitlines()[0])[3].split() == ["KBS", *rest]


def test_bad_requests_end_in_one_sentence(tmp_path: Path) -> None:
    for arguments, words in (
        ((tmp_path / "no.wav", "--model", tmp_path / "no.nemo"), "no file"),
        ((tmp_path / "no.wav", "--style", "commas=some"), "'some'"),
        ((tmp_path / "no.wav", "--terms", tmp_path / "no.txt"), "no.txt"),
        (("--mic", "--model", tmp_path / "no.nemo"), "requirements-mic.txt"),
    ):
        if "--mic" in arguments and importlib.util.find_spec("sounddevice"):
            continue  # then what is said depends on this machine's sound cards
        status, seen, errors = on_a_terminal(*arguments)
        assert status == 2 and not seen and words in errors and errors.count("\n") == 1


def test_latency_is_counted_from_the_words() -> None:
    word = Word("네", 1000, 1200, 0.9)
    partial = Result("네", False, 1000, 1200, (word,))
    final = Result("네", True, 1000, 1200, (word,), stable=1)
    meter = LatencyMeter()
    meter.see([partial], 1.5)
    meter.see([partial, final], 2.0)
    meter.computed(0.03, 3)
    figures = meter.figures(paced=True)
    assert figures["first partial"] == {"p50": pytest.approx(500), "p99": pytest.approx(500), "count": 1}
    assert figures["final after speech"]["p50"] == pytest.approx(800)
    assert figures["chunk compute"] == {"p50": pytest.approx(10), "p99": pytest.approx(10), "count": 3}
    assert set(meter.figures(paced=False)) == {"chunk compute"}
