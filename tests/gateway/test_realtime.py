"""OpenAI's Realtime API for transcription, spoken by OpenAI's own client."""

import asyncio
import base64
import contextlib
import io
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import soundfile
import soxr
import websockets
from gateway_live import (
    PACKET,
    TRANSCRIPTION,
    append,
    configure,
    conversation,
    events_until,
    grpc_finals,
    heard,
    linear16,
    packets,
    rtzr,
    rtzr_address,
    wait_for_figure,
)
from gateway_process import GatewayProcess
from openai import AsyncOpenAI
from websockets.sync.client import connect

from ko_asr.audio.read import read_audio
from ko_asr.runtime.endpoint import EndpointRules

RATE = 24_000
COMPLETED, DELTA = f"{TRANSCRIPTION}.completed", f"{TRANSCRIPTION}.delta"
VAD = "session.audio.input.turn_detection"
INTENT = {"intent": "transcription"}


@pytest.fixture
def connection(gateway):
    """A session that has begun, of the SDK without threads of its own."""
    with gateway.sdk.realtime.connect(extra_query=INTENT) as opened:
        assert opened.recv().type == "session.created"
        yield opened


@pytest.fixture(scope="module")
def talk(files: list[Path]) -> bytes:
    return linear16(conversation(files[:2]), RATE)


@pytest.fixture(scope="module")
def wanted(asr_server: str, talk: bytes) -> list[str]:
    found = grpc_finals(asr_server, heard(talk, RATE), EndpointRules())
    assert len(found) >= 2
    return found


def transcripts(events) -> list[str]:
    return [event.transcript for event in events if event.type == COMPLETED]


def item_of(event) -> str:
    return event.item.id if hasattr(event, "item") else event.item_id


@pytest.mark.parametrize("size", [961, PACKET, 10_000_000])
def test_texts_are_those_of_the_grpc_client(connection, talk, wanted, size: int) -> None:
    append(connection, talk, size)
    assert transcripts(events_until(connection, COMPLETED, len(wanted))) == wanted


def test_events_come_in_the_documented_order(connection, talk, wanted) -> None:
    append(connection, talk)
    events = events_until(connection, COMPLETED, len(wanted))
    assert len({event.event_id for event in events}) == len(events)
    items = list(dict.fromkeys(event.item_id for event in events if event.type == COMPLETED))
    previous = None
    for item, text in zip(items, wanted, strict=True):
        mine = [event for event in events if item_of(event) == item]
        kinds = [event.type.rpartition(".")[2] for event in mine if event.type != DELTA]
        assert kinds == ["speech_started", "speech_stopped", "committed", "added", "done", "completed"]
        assert "".join(event.delta for event in mine if event.type == DELTA) == text
        start, stop = (next(e for e in mine if e.type.endswith(k)) for k in ("_started", "_stopped"))
        assert 0 <= start.audio_start_ms < stop.audio_end_ms <= len(talk) / RATE / 2 * 1000
        committed = next(event for event in mine if event.type.endswith("committed"))
        assert committed.previous_item_id == previous
        assert mine[-1].usage.type == "duration"
        assert mine[-1].usage.seconds == (stop.audio_end_ms - start.audio_start_ms) / 1000
        previous = item


def test_partials_come_before_the_utterance_ends(connection, files) -> None:
    append(connection, linear16(read_audio(files[0]), RATE))
    assert events_until(connection, DELTA)[0].type == "input_audio_buffer.speech_started"


def test_the_client_commits(gateway, asr_server: str, files: list[Path]) -> None:
    clips = [linear16(read_audio(file), RATE) for file in files[:4]]
    wanted = [grpc_finals(asr_server, heard(clip, RATE), None) for clip in clips]

    async def run() -> list[str]:
        client = AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
        async with client.realtime.connect(extra_query=INTENT) as connection:
            told = []
            session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
            await connection.session.update(session=session)
            for clip in clips:
                for packet in packets(clip):
                    await connection.input_audio_buffer.append(audio=base64.b64encode(packet).decode())
                await connection.input_audio_buffer.commit()
            async for event in connection:
                told += [event] if event.type.endswith("d") else []
                if len(transcripts(told)) == len(clips):
                    break
        kinds = [event.type.rpartition(".")[2] for event in told]
        assert kinds == ["created", "updated"] + ["committed", "added", "completed"] * len(clips)
        return transcripts(told)

    assert [[text] for text in asyncio.run(run())] == wanted


def test_complaint_7_a_commit_loses_no_last_word(connection, asr_server: str, files: list[Path]) -> None:
    clip = linear16(read_audio(files[5]), RATE)
    append(connection, clip)
    connection.input_audio_buffer.commit()
    told = transcripts(events_until(connection, COMPLETED))
    assert told == grpc_finals(asr_server, heard(clip, RATE), EndpointRules())
    connection.input_audio_buffer.commit()
    error = events_until(connection, "error")[0].error
    assert error.code == "input_audio_buffer_commit_empty" and "0 ms" in error.message


@pytest.mark.parametrize(("kind", "subtype"), [("audio/pcmu", "ULAW"), ("audio/pcma", "ALAW")])
def test_telephone_audio(connection, asr_server: str, files: list[Path], kind: str, subtype: str) -> None:
    raw = {"format": "RAW", "subtype": subtype, "samplerate": 8000}
    stored = io.BytesIO()
    soundfile.write(stored, soxr.resample(read_audio(files[0]), 16_000, 8000), **raw)
    samples, _ = soundfile.read(io.BytesIO(stored.getvalue()), channels=1, dtype="float32", **raw)
    updated = configure(connection, format={"type": kind}, turn_detection=None)
    assert updated.session.audio.input.format.type == kind
    append(connection, stored.getvalue(), 333)
    connection.input_audio_buffer.commit()
    told = transcripts(events_until(connection, COMPLETED))
    assert told == grpc_finals(asr_server, soxr.resample(samples, 8000, 16_000), None)


def test_the_configuration_is_told_whole(connection) -> None:
    found = configure(connection, turn_detection={"type": "server_vad", "silence_duration_ms": 800})
    assert found.type == "session.updated" and found.session.type == "transcription"
    given = found.session.audio.input
    assert (given.format.type, given.format.rate) == ("audio/pcm", 24_000)
    assert (given.turn_detection.silence_duration_ms, given.turn_detection.threshold) == (800, 0.5)
    transcription = {"model": "whisper-1", "language": "ko"}
    given = configure(connection, transcription=transcription).session.audio.input
    assert given.turn_detection.silence_duration_ms == 800 and given.transcription.model == "whisper-1"
    assert configure(connection, turn_detection=None).session.audio.input.turn_detection is None
    again = configure(connection, turn_detection={"type": "server_vad"}).session.audio.input
    assert again.turn_detection.silence_duration_ms == 500


def test_the_pause_of_the_vad_is_that_of_the_rules(connection, asr_server: str, talk) -> None:
    configure(connection, turn_detection={"type": "server_vad", "silence_duration_ms": 1500})
    append(connection, talk)
    connection.input_audio_buffer.commit()
    rules = EndpointRules(silence_after_speech_ms=1500)
    wanted = grpc_finals(asr_server, heard(talk, RATE), rules)
    assert transcripts(events_until(connection, COMPLETED, len(wanted))) == wanted


def test_keywords_are_boosted_and_those_of_the_prompt_too(connection, asr_server: str, files) -> None:
    clip = linear16(read_audio(files[1]), RATE)
    words, listed = ["주말에:5", "햇빛이"], ["밝아요:1", "선생님:1"]
    wanted = grpc_finals(asr_server, heard(clip, RATE), None, [*words, *listed])
    assert wanted != grpc_finals(asr_server, heard(clip, RATE), None)
    hints = {"keywords": words, "prompt": "선생님 KBS 😀, 밝아요!"}
    assert configure(connection, transcription=hints, turn_detection=None).type == "session.updated"
    append(connection, clip)
    connection.input_audio_buffer.commit()
    assert transcripts(events_until(connection, COMPLETED)) == wanted


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"transcription": {"keywords": ["철수", "KBS😀"]}}, "session.audio.input.transcription.keywords"),
        ({"transcription": {"keywords": ["철수:9"]}}, "session.audio.input.transcription.keywords"),
        ({"transcription": {"language": "en"}}, "session.audio.input.transcription.language"),
        ({"transcription": {"model": "gpt-transcribe"}}, "model"),
        ({"format": {"type": "audio/pcm", "rate": 16_000}}, "session.audio.input.format.rate"),
        ({"format": {"type": "audio/pcm", "rate": 8000}}, "session.audio.input.format.rate"),
        ({"turn_detection": {"type": "semantic_vad"}}, f"{VAD}.type"),
        (
            {"turn_detection": {"silence_duration_ms": -1}},
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(connection, values: dict, param: str) -> None:
    error = configure(connection, **values).error
    assert error.param == param and error.type == "invalid_request_error" and error.message
    assert configure(connection).type == "session.updated"


def test_what_is_cleared_is_not_heard(connection, asr_server: str, files: list[Path]) -> None:
    first, second = (linear16(read_audio(file), RATE) for file in files[:2])
    configure(connection, turn_detection=None)
    append(connection, first[: len(first) // 3 * 2])
    connection.input_audio_buffer.clear()
    events_until(connection, "input_audio_buffer.cleared")
    append(connection, second)
    connection.input_audio_buffer.commit()
    told = transcripts(events_until(connection, COMPLETED))
    assert told == grpc_finals(asr_server, heard(second, RATE), None)


def test_bad_messages_are_answered_and_the_session_lives(gateway, talk, wanted) -> None:
    url = gateway.url.replace("http", "ws") + "/v1/realtime"
    bad = [
        b"\x00\x01",
        "not JSON",
        "[" * 100_000,
        "[]",
        '{"type": 1}',
        '{"type": "response.create", "event_id": "mine"}',
        '{"type": "input_audio_buffer.append"}',
        '{"type": "input_audio_buffer.append", "audio": "%%%"}',
        '{"type": "input_audio_buffer.append", "audio": "한글"}',
        '{"type": "session.update"}',
        '{"type": "session.update", "session": {"type": "realtime"}}',
        '{"type": "input_audio_buffer.commit"}',
    ]
    with connect(url) as socket:
        assert json.loads(socket.recv())["type"] == "session.created"
        for message in bad:
            socket.send(message)
            answer = json.loads(socket.recv())
            assert answer["type"] == "error" and answer["error"]["type"] == "invalid_request_error", message
            sender = "mine" if "mine" in str(message) else None
            assert answer["error"]["event_id"] == sender
        audio = base64.b64encode(talk).decode()
        socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        texts: list[str] = []
        while len(texts) < len(wanted):
            event = json.loads(socket.recv())
            texts += [event["transcript"]] if event["type"] == COMPLETED else []
        assert texts == wanted


def test_a_message_that_is_too_large_closes_its_socket_only(gateway, connection) -> None:
    url = gateway.url.replace("http", "ws") + "/v1/realtime"
    with connect(url) as socket:
        with pytest.raises(websockets.ConnectionClosed) as closed:
            socket.send("x" * (20 << 20))
            while True:
                socket.recv()
        # A client that is still sending may get a reset before it has read the close frame.
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert configure(connection).type == "session.updated"


def test_complaint_9_a_session_needs_no_model(gateway) -> None:
    for query in ({}, INTENT, {"model": "asr"}, {"model": "whisper-1", **INTENT}):
        with gateway.sdk.realtime.connect(extra_query=query) as connection:
            assert connection.recv().type == "session.created"
    for query, status in (({"model": "gpt-realtime"}, 404), ({"intent": "conversation"}, 400)):
        with pytest.raises(websockets.InvalidStatus) as refused:
            gateway.sdk.realtime.connect(extra_query=query).enter()
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["error"]["param"] == next(iter(query))


def test_complaint_9_a_browser_comes_with_a_client_secret(gateway) -> None:
    session = {"type": "transcription", "audio": {"input": {"turn_detection": None}}}
    expiry = {"anchor": "created_at", "seconds": 60}
    made = gateway.sdk.realtime.client_secrets.create(expires_after=expiry, session=session)
    assert made.value.startswith("ek_") and made.session.type == "transcription"
    assert made.session.audio.input.turn_detection is None
    url = gateway.url.replace("http", "ws") + "/v1/realtime"
    with connect(url, subprotocols=["realtime", f"openai-insecure-api-key.{made.value}"]) as socket:
        assert socket.subprotocol == "realtime"
        created = json.loads(socket.recv())["session"]
        assert created["audio"]["input"]["turn_detection"] is None
    with pytest.raises(websockets.InvalidStatus) as refused:
        connect(url, additional_headers={"Authorization": f"Bearer {made.value[:-3]}"})
    assert refused.value.response.status_code == 401
    for body in ({"expires_after": {"seconds": 5}}, {"session": {"type": "realtime"}}, {"session": []}):
        answer = httpx.post(f"{gateway.url}/v1/realtime/client_secrets", json=body)
        assert answer.status_code == 400 and answer.json()["error"]["param"]
    with pytest.raises(openai.BadRequestError):
        gateway.sdk.realtime.client_secrets.create(session={**session, "include": ["item.x"]})


def test_a_client_secret_for_more_than_fits(gateway) -> None:
    address, large = "/v1/realtime/client_secrets", b'{"session": "' + b"x" * 70_000
    for body in (large, iter([large, b'"}'])):  # a length that is declared, and chunks
        assert "65536 bytes" in gateway.error(413, path=address, content=body)["message"]
    assert gateway.error(400, path=address, content=b"no JSON")["param"] == "body"


def test_complaint_6_a_minute_of_silence_cuts_nothing(connection, talk, wanted) -> None:
    append(connection, bytes(2 * RATE * 60), 1 << 20)
    assert configure(connection).type == "session.updated"  # all of it was heard
    append(connection, talk)
    said: list[str] = []
    while len(said) < len(wanted):  # the small model of the tests hears a letter now and then
        said += [text for text in transcripts(events_until(connection, COMPLETED)) if len(text) > 5]


def test_complaint_8_many_sockets_at_a_time(gateway, talk, wanted) -> None:
    def speak(_: int) -> list[str]:
        with gateway.sdk.realtime.connect(extra_query=INTENT) as connection:
            connection.recv()
            append(connection, talk)
            return transcripts(events_until(connection, COMPLETED, len(wanted)))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(speak, range(6))) == [wanted] * 6


def test_clients_that_vanish_free_their_places(gateway, talk) -> None:
    """More in all than the server has places: it would free those of clients that are silent in 30 s only."""
    url = gateway.url.replace("http", "ws") + "/v1/realtime"
    audio = base64.b64encode(talk[: RATE * 2]).decode()
    message = json.dumps({"type": "input_audio_buffer.append", "audio": audio})
    before = gateway.figure("streams_open")
    for _ in range(4):
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(connect(url)) for _ in range(40)]
            for socket in sockets:
                socket.send(message)
            for socket in sockets:
                while DELTA not in socket.recv():
                    pass
            assert gateway.figure("streams_open") == before + 40
            for socket in sockets:
                socket.socket.shutdown(2)
            wait_for_figure(gateway.url, "streams_open", before)


def test_a_client_that_is_ahead_has_to_wait(gateway) -> None:
    """An hour of silence at once: what is held of it is bounded, and the socket is not read."""
    url = gateway.url.replace("http", "ws") + "/v1/realtime"
    audio = base64.b64encode(bytes(2 * RATE)).decode()
    message, before = json.dumps({"type": "input_audio_buffer.append", "audio": audio}), gateway.memory_mib()

    def send(socket) -> int:
        for number in range(3600):
            try:
                socket.send(message)
            except websockets.ConnectionClosed:
                return number
        return 3600

    with connect(url) as socket, ThreadPoolExecutor(1) as pool:
        speaking = pool.submit(send, socket)
        time.sleep(1.5)
        socket.socket.shutdown(2)
        assert speaking.result() < 600
    wait_for_figure(gateway.url, "streams_open", 0.0)
    assert gateway.memory_mib() - before < 40


def test_complaint_7_a_gateway_that_stops_tells_the_last_words(
    asr_server: str, files: list[Path], tmp_path: Path
) -> None:
    clip = linear16(read_audio(files[0]), RATE)
    with GatewayProcess(asr_server, tmp_path / "g") as gateway:
        with gateway.sdk.realtime.connect(extra_query=INTENT) as connection:
            append(connection, clip)
            events = events_until(connection, DELTA)
            gateway.process.send_signal(signal.SIGTERM)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                while True:
                    events.append(connection.recv())
        assert gateway.process.wait(20) in (0, -signal.SIGTERM)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012
    assert transcripts(events) == grpc_finals(asr_server, heard(clip, RATE), EndpointRules())


def test_a_recogniser_that_is_away(tmp_path: Path) -> None:
    """It is told at once, the session lives, and RTZR's client is asked to come again."""
    clip = bytes(RATE)
    with GatewayProcess("127.0.0.1:1", tmp_path / "g") as lonely:
        with lonely.sdk.realtime.connect(extra_query=INTENT) as connection:
            connection.recv()
            append(connection, clip)
            error = events_until(connection, "error")[-1].error
            assert (error.type, error.code) == ("server_error", "unavailable")
            assert configure(connection, turn_detection=None).type == "session.updated"
        address = rtzr_address(lonely.url, sample_rate=16_000, encoding="LINEAR16")
        assert asyncio.run(rtzr(address, [clip]))[1] == 1013
