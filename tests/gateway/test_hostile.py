"""Clients that mean harm, before and behind the handshake: nobody else notices, and memory stays."""

import base64
import contextlib
import io
import json
import os
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from backing_services import wait_until
from gateway_live import rtzr_address
from gateway_process import GatewayProcess
from websockets.sync.client import connect

GET = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = b"POST /v1/transcribe HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
HALF = '"\\ud800"'  # of a character
FLOODS = {
    "a header that never ends": (GET + b"x: ", b"a" * 100_000),
    "headers that never end": (GET, b"a: b\r\n" * 10_000),
    "an address that never ends": (b"GET /", b"a" * 60_000),
    "trailers that never end": (CHUNKED, b"a: b\r\n" * 10_000),
    "answers that nobody reads": (b"", 1000 * (GET + b"\r\n")),
}


@pytest.fixture(scope="module")
def attacked(asr_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("attacked") / "g"
    fast = ("--allow-http", "--webhook-scale", "0.001", "--webhook-timeout", "1")
    with GatewayProcess(asr_server, folder, *fast) as running:
        yield running


def opened(gateway: GatewayProcess) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
    client.settimeout(0.2)
    return client


def flood(client: socket.socket, data: bytes, seconds: float) -> bool:
    """Send ``data`` again and again and read nothing; True where the gateway has closed the connection."""
    deadline, at = time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        try:
            at = (at + client.send(data[at:])) % len(data)
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


@contextlib.contextmanager
def no_memory(gateway: GatewayProcess) -> Iterator[None]:
    before = gateway.memory_mib()
    yield
    assert gateway.memory_mib() - before < 64
    assert httpx.get(f"{gateway.url}/health/live", timeout=5).status_code == 200


def websocket(gateway: GatewayProcess) -> socket.socket:
    """A socket behind its handshake, for frames that no library would send."""
    client, key = opened(gateway), base64.b64encode(os.urandom(16))
    head = b"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    client.sendall(head + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key)
    client.settimeout(10)
    assert b" 101 " in client.recv(1 << 16)
    client.settimeout(0.2)
    return client


def frame(opcode: int, data: bytes = b"") -> bytes:
    return bytes([0x80 | opcode, 0x80 | len(data)]) + bytes(4) + data


@pytest.mark.parametrize("kind", FLOODS)
def test_what_never_ends_is_cut_off(attacked, kind: str) -> None:
    begin, more = FLOODS[kind]
    with opened(attacked) as client, no_memory(attacked):
        client.sendall(begin)
        assert flood(client, more, 20)


@pytest.mark.parametrize("data", [frame(9, bytes(100)), frame(1), frame(2)], ids=["pings", "texts", "bytes"])
def test_a_socket_that_reads_no_answers(attacked, data: bytes) -> None:
    with websocket(attacked) as client, no_memory(attacked):
        flood(client, data * (200_000 // len(data)), 5)


def test_who_says_nothing_has_to_go(attacked) -> None:
    """Nor may a head take its time, on a first or a later request."""
    with opened(attacked) as silent, opened(attacked) as slow, opened(attacked) as later:
        later.sendall(GET + b"\r\n")
        slow.sendall(GET)
        later.sendall(GET)
        begun, closed = time.monotonic(), 0
        for client in (silent, slow, later):
            client.settimeout(45)
            with contextlib.suppress(ConnectionResetError):
                while client.recv(1 << 16):
                    pass
            closed += 1
        assert closed == 3 and time.monotonic() - begun < 45


def test_long_addresses_of_websockets_are_answered(attacked) -> None:
    words = ",".join(f"{'가' * 10}{chr(0xAC00 + number)}:1.5" for number in range(90))
    address = rtzr_address(attacked.url, encoding="LINEAR16", sample_rate=16000, keywords=words)
    assert len(httpx.URL(address).raw_path) > 8192
    with connect(str(httpx.URL(address)), open_timeout=20) as session:
        session.send("EOS")
    with opened(attacked) as client:
        client.settimeout(10)
        client.sendall(b"GET /v1/realtime?%b HTTP/1.1\r\nHost: 127.0.0.1\r\n" % (b"a" * 50_000))
        client.sendall(b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert b" 400 " in client.recv(1 << 16)


def test_a_box_of_mp4_that_claims_all_there_is(attacked) -> None:
    huge = (1).to_bytes(4) + b"moov" + b"\xff" * 8
    data = b"\0\0\0\x14ftypisom\0\0\2\0isom" + huge + bytes(1000)
    answer = attacked.post("/v1/transcribe", files={"audio": data})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_audio"


def test_a_small_file_waits_for_none_that_unpacks_to_hours(attacked, files: list[Path]) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros((30 * 384_000, 8), np.int16), 384_000, format="FLAC")
    bomb = {"audio": buffer.getvalue()}
    with ThreadPoolExecutor(8) as pool:
        bombs = [pool.submit(attacked.post, "/v1/transcribe", files=bomb) for _ in range(6)]
        time.sleep(1)
        answer = attacked.post("/v1/transcribe", files={"audio": files[0].read_bytes()})
        assert answer.status_code == 200 and not any(one.done() for one in bombs)
        assert [one.result().status_code for one in bombs] == 6 * [200]
    attacked.wait_until_empty()


def test_an_address_that_no_library_knows_is_a_failed_try(attacked, files: list[Path]) -> None:
    job = attacked.job(files[0], callback_url="http://xn--/")
    attacked.ended(job)
    again = re.compile(rf"of {job}: try 2: ")
    wait_until(lambda: again.search(attacked.log.read_text(encoding="utf-8")) is not None)
    assert "Traceback" not in attacked.log.read_text(encoding="utf-8")


def test_half_characters_and_depth_are_refused(attacked, files: list[Path]) -> None:
    file = {"file": files[0].read_bytes()}
    for metadata in (f'{{"a": {HALF}}}', 60_000 * "["):
        answer = attacked.post("/v1/jobs", data={"metadata": metadata}, files=file)
        assert answer.status_code == 400 and answer.json()["error"]["param"] == "metadata"
    config = f'{{"keywords": [{HALF}]}}'
    answer = attacked.post("/rtzr/v1/transcribe", data={"config": config}, files=file)
    assert answer.status_code == 400 and answer.json()["code"] == "H0001"
    with connect(f"{attacked.url.replace('http', 'ws')}/v1/realtime") as session:
        session.recv()
        for message in (f'{{"type": "x", "event_id": {HALF}}}', f'{{"type": {HALF}}}', 60_000 * "["):
            session.send(message)
            assert json.loads(session.recv())["error"]["code"] == "invalid_json"
        strength = '{"audio": {"input": {"noise_reduction": {"strength": 1e999}}}}'
        session.send(f'{{"type": "session.update", "session": {strength}}}')
        assert json.loads(session.recv())["error"]["code"] == "invalid_value"
    assert "Traceback" not in attacked.log.read_text(encoding="utf-8")


def test_clips_of_a_moment_do_not_fill_the_disk_with_texts(asr_server: str, tmp_path: Path) -> None:
    clip = io.BytesIO()
    soundfile.write(clip, np.zeros(1, np.int16), 16_000, format="WAV")
    fields = {"text": "가" * 1000, "original": "나" * 1000, "model": "asr", "consent": "true"}
    folder = tmp_path / "corrections"
    bounded = ("--corrections", str(folder), "--max-corrections", "0.02")
    with GatewayProcess(asr_server, tmp_path / "g", *bounded) as gateway:
        sent = [
            gateway.post("/v1/corrections", data=fields, files={"audio": clip.getvalue()}) for _ in range(6)
        ]
    assert [answer.status_code for answer in sent] == 3 * [201] + 3 * [507]
    assert sum(file.stat().st_size for file in folder.iterdir()) < 0.02 * (1 << 20)
