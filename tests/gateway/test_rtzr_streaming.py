"""RTZR's streaming recognition, spoken by a WebSocket client of its documented protocol."""

import asyncio
import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soxr
import websockets
from gateway_live import (
    PACKET,
    conversation,
    finals,
    grpc_finals,
    heard,
    linear16,
    packets,
    rtzr,
    rtzr_address,
    wait_for_figure,
)
from gateway_process import GatewayProcess, ffmpeg
from websockets.sync.client import connect

from ko_asr.audio.read import read_audio
from ko_asr.runtime.endpoint import EndpointRules

COMPRESSED = {
    "OGG_OPUS": ("-c:a libopus -b:a 64k -page_duration 20000 -f ogg", "-f ogg"),
    "FLAC": ("-c:a flac -sample_fmt s16 -f flac", "-f flac"),
    "AMR": ("-ar 8000 -c:a libopencore_amrnb -b:a 12.2k -f amr", "-f amr"),
}


@pytest.fixture(scope="module")
def talk(files: list[Path]) -> np.ndarray:
    return conversation(files[:2])


@pytest.fixture(scope="module")
def bare(asr_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway without an ffmpeg, to be stopped by the last test."""
    with GatewayProcess(asr_server, tmp_path_factory.mktemp("bare") / "g", "--no-ffmpeg") as running:
        yield running


def encoded(options: str, data: bytes) -> bytes:
    """What ffmpeg makes of ``data``."""
    command = ffmpeg()
    if command is None:
        pytest.skip("no ffmpeg here")
    done = subprocess.run(
        [command, "-loglevel", "error", *options.split(), "pipe:1"], input=data, capture_output=True
    )
    if done.returncode and b"Unknown encoder" in done.stderr:
        pytest.skip("this ffmpeg has no such encoder")
    assert not done.returncode, done.stderr
    return done.stdout


def speak(gateway, frames, **query) -> list[dict]:
    """The answers to frames, then EOS."""
    answers, code, reason = asyncio.run(rtzr(rtzr_address(gateway.url, **query), [*frames, "EOS"]))
    assert (code, reason) == (1000, "")
    return answers


@pytest.mark.parametrize(("rate", "size"), [(8000, 1), (16_000, PACKET), (16_000, 3_000_000), (48_000, 1919)])
def test_linear16_at_any_rate_and_packet(gateway, asr_server: str, talk, rate: int, size: int) -> None:
    data = linear16(talk, rate)
    if size == 1:
        data = data[: 2 * rate]
    wanted = grpc_finals(asr_server, heard(data, rate), EndpointRules())
    answers = speak(gateway, packets(data, size), sample_rate=rate, encoding="LINEAR16")
    assert wanted and finals(answers) == wanted


def test_complaint_8_a_stream_goes_on_beyond_fifteen_minutes(gateway, talk) -> None:
    """Sixteen minutes of speech, sent as fast as they are taken: no length is built in."""
    data = linear16(np.tile(talk, 16 * 60 * 16_000 // len(talk) + 1), 16_000)
    answers = speak(gateway, packets(data, 1 << 17), sample_rate=16_000, encoding="LINEAR16")
    last = [answer for answer in answers if answer["final"]][-1]
    assert last["start_at"] > 15 * 60_000 and len(finals(answers)) > 100 and len(finals(answers)[-1]) > 5


@pytest.mark.parametrize("law", ["MULAW", "ALAW"])
def test_telephone_audio(gateway, asr_server: str, talk, law: str) -> None:
    form = law.lower()
    data = encoded(f"-f s16le -ar 8000 -ac 1 -i pipe:0 -c:a pcm_{form} -f {form}", linear16(talk, 8000))
    samples = encoded(f"-f {form} -ar 8000 -ac 1 -i pipe:0 -f s16le", data)
    wanted = grpc_finals(asr_server, heard(samples, 8000), EndpointRules())
    assert finals(speak(gateway, packets(data, 313), sample_rate=8000, encoding=law)) == wanted


@pytest.mark.parametrize("encoding", COMPRESSED)
def test_compressed_audio(gateway, asr_server: str, talk, encoding: str) -> None:
    to, back = COMPRESSED[encoding]
    data = encoded(f"-f s16le -ar 16000 -ac 1 -i pipe:0 {to}", linear16(talk, 16_000))
    rate = 8000 if encoding == "AMR" else 48_000 if encoding == "OGG_OPUS" else 16_000
    decoded = np.frombuffer(encoded(f"{back} -i pipe:0 -f f32le -ac 1", data), "<f4")
    wanted = grpc_finals(asr_server, soxr.resample(decoded, rate, 16_000), EndpointRules())
    for size in (777, 1 << 20):
        answers = speak(gateway, packets(data, size), sample_rate=16_000, encoding=encoding)
        assert finals(answers) == wanted
    if encoding == "AMR":  # frames without the header of a file
        assert finals(speak(gateway, packets(data[6:]), sample_rate=8000, encoding=encoding)) == wanted


def test_answers_have_the_documented_fields(gateway, talk) -> None:
    answers = speak(gateway, packets(linear16(talk, 16_000)), sample_rate=16_000, encoding="LINEAR16")
    assert all(set(answer) == {"seq", "start_at", "duration", "final", "alternatives"} for answer in answers)
    assert sum(not answer["final"] for answer in answers) > len(finals(answers))
    told = [answer for answer in answers if answer["final"]]
    assert [answer["seq"] for answer in told] == list(range(len(told)))
    assert [answer["start_at"] for answer in told] == sorted(answer["start_at"] for answer in told)
    for answer in told:
        best = answer["alternatives"][0]
        assert (
            " ".join(word["text"] for word in best["words"]) == best["text"] and 0 < best["confidence"] <= 1
        )
        assert best["words"][0]["start_at"] == answer["start_at"] > 0 and answer["duration"] > 0


def test_complaint_7_finalize_ends_the_utterance_and_the_stream_goes_on(
    gateway, asr_server: str, files
) -> None:
    clips = [linear16(read_audio(file), 16_000) for file in files[:3]]
    wanted = [
        text for clip in clips for text in grpc_finals(asr_server, heard(clip, 16_000), EndpointRules())
    ]
    frames = [frame for clip in clips for frame in (*packets(clip), json.dumps({"type": "Finalize"}))]
    answers = speak(gateway, frames, sample_rate=16_000, encoding="LINEAR16")
    assert finals(answers) == wanted
    starts = [answer["start_at"] for answer in answers if answer["final"]]
    assert starts == sorted(starts) and starts[-1] > 1000 * len(clips[0]) / 32_000


def test_options_are_those_of_the_recogniser(gateway, asr_server: str, files) -> None:
    data = linear16(conversation(files[1:2]), 16_000)
    usual = {"use_itn": "true", "use_disfluency_filter": "true", "domain": "CALL", "model_name": "sommers_ko"}
    rules = EndpointRules(silence_after_speech_ms=1500, max_utterance_ms=2000)
    for given, options in (
        ({"epd_time": 1.5, "max_utter_duration": 2}, (rules, ())),
        ({"keywords": "주말에:5,햇빛이"}, (EndpointRules(), ["주말에:5", "햇빛이:2"])),
        ({"noise_threshold": 0.7, "no_such_parameter": 1}, (EndpointRules(), ())),
    ):
        wanted = grpc_finals(asr_server, heard(data, 16_000), *options)
        answers = speak(gateway, packets(data), sample_rate=16_000, encoding="LINEAR16", **usual, **given)
        assert finals(answers) == wanted


@pytest.mark.parametrize(
    "query",
    [
        {"encoding": "LINEAR16"},
        {"sample_rate": 16_000},
        {"sample_rate": 4000, "encoding": "LINEAR16"},
        {"sample_rate": "fast", "encoding": "LINEAR16"},
        {"sample_rate": "nan", "encoding": "LINEAR16"},
        {"sample_rate": 16_000, "encoding": "MP3"},
        {"sample_rate": 16_000, "encoding": "LINEAR16", "language": "en"},
        {"sample_rate": 16_000, "encoding": "LINEAR16", "model_name": "whisper"},
        {"sample_rate": 16_000, "encoding": "LINEAR16", "use_itn": "maybe"},
        {"sample_rate": 16_000, "encoding": "LINEAR16", "epd_time": 0},
        {"sample_rate": 16_000, "encoding": "LINEAR16", "keywords": "철수:6"},
        {"sample_rate": 16_000, "encoding": "LINEAR16", "keywords": "철수,KBS😀"},
    ],
)
def test_what_cannot_be_honoured_refuses_the_handshake(gateway, query: dict) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(rtzr_address(gateway.url, **query))
    assert refused.value.response.status_code == 400
    body = json.loads(refused.value.response.body)
    assert set(body) == {"code", "msg"} and body["code"] == "H0001" and body["msg"]
    request_id = refused.value.response.headers["x-request-id"]
    log = gateway.log.read_text(encoding="utf-8")
    assert f"{request_id} WebSocket /rtzr/v1/transcribe:streaming 400" in log and " ERROR " not in log


def test_bad_frames_close_the_socket_with_the_reason(gateway) -> None:
    def closed(frame: bytes | str, encoding: str = "LINEAR16") -> tuple[int, str]:
        address = rtzr_address(gateway.url, sample_rate=16_000, encoding=encoding)
        return asyncio.run(rtzr(address, [frame, "EOS"]))[1:]

    for frame in ("EOF", "{", '{"type": "Start"}', "[1]"):
        code, reason = closed(frame)
        assert code == 1008 and reason.startswith("H0001: a text frame is EOS")
    if ffmpeg():
        for encoding in COMPRESSED:
            code, reason = closed(b"no audio at all " * 400, encoding)
            assert code == 1008 and reason == f"H0010: the audio is damaged or not {encoding}"
    wait_for_figure(gateway.url, "streams_open", 0.0)


def test_no_audio_is_no_answer(gateway) -> None:
    assert speak(gateway, [], sample_rate=16_000, encoding="LINEAR16") == []
    assert speak(gateway, [b"1"], sample_rate=16_000, encoding="LINEAR16") == []
    if ffmpeg():
        assert speak(gateway, [], sample_rate=16_000, encoding="OGG_OPUS") == []


def test_compressed_audio_needs_an_ffmpeg(bare) -> None:
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(rtzr_address(bare.url, sample_rate=16_000, encoding="OGG_OPUS"))
    assert "needs an ffmpeg" in json.loads(refused.value.response.body)["msg"]


def test_no_ffmpeg_is_left_behind(gateway, talk) -> None:
    def children() -> list[str]:
        return own.read_text(encoding="ascii").split()

    own = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children")

    data = encoded(f"-f s16le -ar 16000 -ac 1 -i pipe:0 {COMPRESSED['FLAC'][0]}", linear16(talk, 16_000))
    address = rtzr_address(gateway.url, sample_rate=8000, encoding="FLAC")
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(connect(address)) for _ in range(3)]
        for socket in sockets:
            socket.send(data[: len(data) // 2])
            assert json.loads(socket.recv())["alternatives"]
        assert len(children()) >= 3
        for socket in sockets:
            socket.socket.shutdown(2)
        deadline = time.monotonic() + 10
        while children():
            assert time.monotonic() < deadline, children()
            time.sleep(0.05)


@pytest.mark.slow
def test_a_minute_without_a_frame_ends_it(gateway) -> None:
    address = rtzr_address(gateway.url, sample_rate=16_000, encoding="LINEAR16")
    with connect(address) as socket, pytest.raises(websockets.ConnectionClosed) as closed:
        socket.recv(timeout=90)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
    assert closed.value.rcvd.reason == "no frame came for 60 s"


def test_complaint_7_a_gateway_that_stops_tells_the_last_words(bare, asr_server: str, files) -> None:
    data = linear16(read_audio(files[0]), 16_000)
    with connect(rtzr_address(bare.url, sample_rate=16_000, encoding="LINEAR16")) as socket:
        for packet in packets(data):
            socket.send(packet)
        answers = [json.loads(socket.recv())]
        bare.process.send_signal(signal.SIGTERM)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            while True:
                answers.append(json.loads(socket.recv()))
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    assert finals(answers) == grpc_finals(asr_server, heard(data, 16_000), EndpointRules())
    assert bare.process.wait(20) in (0, -signal.SIGTERM)
