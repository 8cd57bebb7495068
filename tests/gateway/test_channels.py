"""Recordings whose channels are different speakers."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gateway_process import GatewayProcess

from ko_asr.audio.read import read_audio
from ko_asr.evaluation.metrics import score

RATE = 16_000


def recording(files: list[Path], turns: list[list[int]]) -> tuple[np.ndarray, list[list[float]]]:
    """Audio [n, channels] in which each channel says its files in turn, and the seconds where each begins.

    ``turns[k]`` holds the channel that speaks the k-th file, and the pause before it in seconds.
    """
    channels = 1 + max(channel for channel, _ in turns)
    tracks: list[list[np.ndarray]] = [[] for _ in range(channels)]
    starts: list[list[float]] = [[] for _ in range(channels)]
    at = 0
    for (channel, pause), file in zip(turns, files, strict=False):
        clip, at = read_audio(file), at + round(pause * RATE)
        track = tracks[channel]
        track.append(np.zeros(at - sum(map(len, track)), np.float32))
        track.append(clip)
        starts[channel].append(at / RATE)
        at += len(clip)
    sound = np.zeros((at + RATE, channels), np.float32)
    for channel, track in enumerate(tracks):
        joined = np.concatenate([*track, np.zeros(1, np.float32)])
        sound[: len(joined), channel] = joined
    return sound, starts


def written(sound: np.ndarray, rate: int = RATE, kind: str = "FLAC") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, rate, format=kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def call(files: list[Path]) -> bytes:
    """An agent on channel 0, a customer on channel 1."""
    sound, _ = recording(files, [[0, 0.5], [1, 0.8], [0, 0.8], [1, 0.8]])
    return written(sound)


def asked(gateway: GatewayProcess, data: bytes, **fields):
    form = {"model": "asr", "channels": "separate", **fields}
    answer = gateway.post(data=form, files={"file": data})
    assert answer.status_code == 200, answer.text
    return answer


def test_each_channel_is_heard_for_itself_and_all_of_it_in_order(gateway, files, call) -> None:
    granularities = {"timestamp_granularities[]": ["word", "segment"]}
    found = asked(gateway, call, response_format="verbose_json", **granularities).json()
    assert [segment["channel"] for segment in found["segments"]] == [0, 1, 0, 1]
    assert [segment["text"] for segment in found["segments"]] == [gateway.text(file) for file in files[:4]]
    assert found["text"] == " ".join(segment["text"] for segment in found["segments"])
    starts = [word["start"] for word in found["words"]]
    assert starts == sorted(starts) and {word["channel"] for word in found["words"]} == {0, 1}
    assert found["usage"]["seconds"] == pytest.approx(2 * found["duration"], abs=1e-2)


def test_every_format_tells_the_channel(gateway, files, call) -> None:
    texts = [gateway.text(file) for file in files[:4]]
    assert asked(gateway, call, response_format="text").text == "".join(
        f"[{number % 2}] {text}\n" for number, text in enumerate(texts)
    )
    found = asked(gateway, call).json()
    assert [(one["channel"], one["text"]) for one in found["channels"]] == [
        (0, f"{texts[0]} {texts[2]}"),
        (1, f"{texts[1]} {texts[3]}"),
    ]
    for kind in ("srt", "vtt"):
        page = asked(gateway, call, response_format=kind).text
        cues = re.findall(r"--> \S+\n\[(\d)\] ", page)
        assert len(cues) == page.count("-->") and set(cues) == {"0", "1"}
    plain = gateway.post("/v1/transcribe", data={"channels": "separate"}, files={"audio": call}).json()
    assert plain["channels"] == found["channels"] and plain["text"] == " ".join(texts)


def test_speakers_that_interrupt_each_other_lose_nothing(gateway, files) -> None:
    clips = [read_audio(file) for file in files[:3]]
    sound = np.zeros((max(map(len, clips)) + RATE, 3), np.float32)
    for channel, clip in enumerate(clips):
        sound[RATE // 2 : RATE // 2 + len(clip), channel] = clip
    found = asked(gateway, written(sound)).json()
    wanted, heard = (
        [gateway.text(file) for file in files[:3]],
        [one["text"] for one in found["channels"]],
    )
    assert score(" ".join(wanted), " ".join(heard)).cer < 0.1  # silence around them is cut away


def test_long_channels_and_other_rates(gateway, files, tmp_path: Path) -> None:
    """A long call takes files; here at 8 kHz in A-law, as telephone recorders write it."""
    import soxr

    turns = [[number % 2, 0.7] for number in range(16)]
    sound, _ = recording(files, turns)
    assert len(sound) > 40 * RATE
    path = tmp_path / "call.wav"
    soundfile.write(path, soxr.resample(sound, RATE, 8000), 8000, "ALAW", format="WAV")
    together = asked(gateway, path.read_bytes()).json()
    for channel in (0, 1):
        alone = tmp_path / f"{channel}.wav"
        soundfile.write(alone, soxr.resample(sound[:, channel], RATE, 8000), 8000, "ALAW", format="WAV")
        assert together["channels"][channel]["text"] == gateway.text(alone)
    gateway.wait_until_empty()


def test_mixed_is_the_default_and_tells_no_channel(gateway, call) -> None:
    for fields in ({}, {"channels": "mix"}):
        form = {"model": "asr", "response_format": "verbose_json", **fields}
        found = gateway.post(data=form, files={"file": call}).json()
        assert "channel" not in found["segments"][0] and len(found["segments"]) >= 4


def test_one_channel_is_channel_0_and_silent_ones_say_nothing(gateway, files) -> None:
    clip = read_audio(files[0])
    alone = asked(gateway, written(clip)).json()
    assert [one["channel"] for one in alone["channels"]] == [0]
    assert alone["text"] == gateway.text(files[0])
    eight = np.zeros((len(clip), 8), np.float32)
    eight[:, 5] = clip
    found = asked(gateway, written(eight)).json()
    assert [bool(one["text"]) for one in found["channels"]] == [number == 5 for number in range(8)]
    assert found["channels"][5]["text"] == alone["text"]


def test_what_cannot_be_told_apart_is_refused_by_name(gateway, call) -> None:
    nine = written(np.zeros((RATE, 9), np.float32), kind="WAV")
    for data, fields, words in (
        (nine, {}, "9 channels: up to 8"),
        (call, {"stream": "true"}, "cannot be streamed"),
        (call, {"channels": "left"}, "must be mix or separate"),
    ):
        form = {"model": "asr", "channels": "separate", **fields}
        error = gateway.error(400, data=form, files={"file": data})
        assert error["param"] == "channels" and words in error["message"], error


def test_keywords_hold_for_every_channel(gateway, call) -> None:
    assert (
        asked(gateway, call, keywords="가나다라:1").json() == asked(gateway, call, prompt="가나다라").json()
    )
