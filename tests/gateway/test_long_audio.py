"""Recordings that are longer than what a model takes at once."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gateway_process import GatewayProcess

from ko_asr.audio.read import read_audio
from ko_asr.evaluation.metrics import score

PAUSE = np.zeros(16_000, np.float32)


@pytest.fixture(scope="module")
def long(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty clean utterances with a second between them."""
    path = tmp_path_factory.mktemp("long") / "long.flac"
    clips = [part for file in files[:20] for part in (PAUSE, read_audio(file))]
    soundfile.write(path, np.concatenate(clips), 16_000)
    return path


def test_its_text_is_that_of_its_utterances(gateway, files: list[Path], long: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        wanted = " ".join(pool.map(gateway.text, files[:20]))
    with long.open("rb") as file:
        found = gateway.sdk.audio.transcriptions.create(
            model="asr",
            file=file,
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
    assert score(wanted, found.text).cer < 0.1  # pieces are cut otherwise than the files
    starts = [word.start for word in found.words]
    assert starts == sorted(starts) and found.words[-1].end <= float(found.duration) + 0.1
    assert " ".join(word.word for word in found.words) == found.text
    assert len(found.segments) >= 15
    assert float(found.duration) == pytest.approx(soundfile.info(long).duration, abs=1e-3)


def test_a_stream_tells_it_piece_by_piece(gateway, long: Path) -> None:
    with long.open("rb") as file:
        events = list(gateway.sdk.audio.transcriptions.create(model="asr", file=file, stream=True))
    deltas = [event.delta for event in events[:-1]]
    assert len(deltas) > 3 and "".join(deltas) == events[-1].text == gateway.text(long)


def test_subtitles_do_not_overlap(gateway, long: Path) -> None:
    with long.open("rb") as file:
        page = gateway.sdk.audio.transcriptions.create(model="asr", file=file, response_format="vtt")
    times = re.findall(r"(\d\d:\d\d:\d\d\.\d{3})", page)
    assert len(times) >= 40 and times == sorted(times)


def test_a_cut_through_sound_loses_and_doubles_no_word(demo, files: list[Path], tmp_path: Path) -> None:
    """Speech without any pause, cut every few seconds."""

    def without_edges(file: Path) -> np.ndarray:
        clip = read_audio(file)
        loud = np.flatnonzero(np.abs(clip) > 0.02)
        return clip[loud[0] : loud[-1]]

    path = tmp_path / "speech.wav"
    soundfile.write(path, np.concatenate([without_edges(file) for file in files[:8]]), 16_000)
    with GatewayProcess(demo.url, tmp_path / "g", "--piece-seconds", "4") as gateway:
        cut = gateway.text(path)
    with GatewayProcess(demo.url, tmp_path / "h", "--piece-seconds", "50") as gateway:
        assert score(gateway.text(path), cut).cer < 0.2


def test_complaint_3_a_long_file_does_not_delay_a_short_one(
    demo, files: list[Path], long: Path, tmp_path: Path
) -> None:
    with (
        GatewayProcess(demo.url, tmp_path / "g", "--in-flight", "1") as gateway,
        ThreadPoolExecutor(1) as pool,
    ):
        ended = pool.submit(gateway.text, long)
        while not gateway.figure("audio_seconds_total"):
            time.sleep(0.02)
        for file in files[:3]:
            assert gateway.text(file) is not None
        assert not ended.done()
        assert ended.result()


def test_the_length_is_limited(demo, long: Path, tmp_path: Path) -> None:
    with GatewayProcess(demo.url, tmp_path / "g", "--max-seconds-sync", "30") as gateway:
        error = gateway.error(413, data={"model": "asr"}, files={"file": long.read_bytes()})
        assert "longer than 30 s" in error["message"]
