"""Limits, clients that leave, servers that are gone, and what stays behind: nothing."""

import re
import shutil
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import soundfile
from gateway_process import GatewayProcess

from ko_asr.serving.server import TritonServer, free_ports

HEAD = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
)


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A minute and a half without a pause."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(90 * 16_000)
    soundfile.write(tmp_path / "noise.flac", samples, 16_000)
    return tmp_path / "noise.flac"


def open_upload(gateway: GatewayProcess) -> socket.socket:
    """A client that has begun to send, and has a folder."""
    client = socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
    client.sendall(HEAD + bytes(3 << 19))  # a smaller one would stay in memory
    wait(lambda: bool(gateway.left()))
    return client


def wait(condition) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_complaint_4_requests_with_the_same_file_name_do_not_meet(gateway, files: list[Path]) -> None:
    def text(file: Path) -> str:
        name = ("speech.wav", file.read_bytes())
        return gateway.sdk.audio.transcriptions.create(model="asr", file=name).text

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(text, files[:16]))
    assert together == [gateway.text(file) for file in files[:16]]


def test_a_client_that_leaves_while_it_sends_leaves_no_file(gateway) -> None:
    open_upload(gateway).close()
    gateway.wait_until_empty()


def test_a_client_that_leaves_while_it_waits_leaves_no_file(gateway, noise: Path) -> None:
    for path, data in (
        ("/v1/audio/transcriptions", {"model": "asr"}),
        ("/v1/audio/transcriptions", {"model": "asr", "stream": "true"}),
    ):
        with noise.open("rb") as file, pytest.raises(httpx.ReadTimeout):
            timeout = httpx.Timeout(30, read=0.05)
            httpx.post(f"{gateway.url}{path}", data=data, files={"file": file}, timeout=timeout)
        gateway.wait_until_empty()
    wait(lambda: gateway.figure("requests_in_flight") <= 1)  # the request for the figures


def test_complaint_1_a_large_file_is_counted_while_it_comes(demo, tmp_path: Path) -> None:
    def chunks():
        yield HEAD.partition(b"\r\n\r\n")[2]
        for _ in range(40):
            yield bytes(65_536)

    with GatewayProcess(demo.url, tmp_path / "g", "--max-upload", "1") as gateway:
        kind = {"content-type": "multipart/form-data; boundary=x"}
        error = gateway.error(413, content=chunks(), headers=kind)
        assert (error["code"], error["param"]) == ("file_too_large", "file")
        gateway.error(413, data={"model": "asr"}, files={"other": bytes(3 << 20)})
        gateway.error(413, files={"model": (None, "a" * 100_000)})
        gateway.wait_until_empty()


def test_complaint_10_a_full_disk_is_no_bad_request(
    demo, noise: Path, files: list[Path], tmp_path: Path
) -> None:
    with GatewayProcess(demo.url, tmp_path / "g", file_kib=1000) as gateway:
        for data in (noise.read_bytes(), noise.read_bytes()[:100_000]):
            answer = gateway.post(data={"model": "asr"}, files={"file": data})
            if len(data) > 1 << 20:
                assert answer.status_code == 507 and answer.headers["retry-after"]
                assert answer.json()["error"]["code"] == "disk_full"
        long = tmp_path / "silence.flac"
        soundfile.write(long, np.zeros(120 * 16_000), 16_000)
        assert gateway.error(507, data={"model": "asr"}, files={"file": long.read_bytes()})
        assert gateway.text(files[0])
        gateway.wait_until_empty()


def test_more_requests_than_places(demo, files: list[Path], tmp_path: Path) -> None:
    with GatewayProcess(demo.url, tmp_path / "g", "--max-requests", "1") as gateway:
        client = open_upload(gateway)
        with pytest.raises(openai.RateLimitError) as caught:
            gateway.text(files[0])
        assert caught.value.response.headers["retry-after"] == "1"
        client.close()
        gateway.wait_until_empty()
        assert gateway.text(files[0])


def test_a_recogniser_that_is_full(demo, files: list[Path], tmp_path: Path) -> None:
    """Triton with a queue of one."""
    copy = tmp_path / "triton"
    shutil.copytree(demo.repository, copy, ignore=shutil.ignore_patterns("__pycache__"))
    config = copy / "asr_encoder/config.pbtxt"
    text = config.read_text(encoding="utf-8")
    limited = re.sub(r"dynamic_batching \{", r"\g<0> default_queue_policy { max_queue_size: 1 }", text)
    assert limited != text
    config.write_text(limited, encoding="utf-8")

    def ask(file: Path) -> httpx.Response:
        return gateway.post(data={"model": "asr"}, files={"file": file.read_bytes()})

    with (
        TritonServer(copy, demo.server) as server,
        GatewayProcess(server.url, tmp_path / "g", "--in-flight", "40") as gateway,
        ThreadPoolExecutor(40) as pool,
    ):
        answers = list(pool.map(ask, files))
    assert {answer.status_code for answer in answers} == {200, 429}
    refusal = next(answer for answer in answers if answer.status_code == 429)
    assert refusal.json()["error"]["code"] == "full" and refusal.headers["retry-after"] == "1"


def test_a_recogniser_that_is_gone(files: list[Path], tmp_path: Path) -> None:
    with GatewayProcess(f"127.0.0.1:{free_ports(1)[0]}", tmp_path / "g") as gateway:
        with pytest.raises(openai.InternalServerError) as caught:
            gateway.text(files[0])
        assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"]
        answer = gateway.post(data={"model": "asr", "stream": "true"}, files={"file": files[0].read_bytes()})
        assert answer.status_code == 503
        assert httpx.get(f"{gateway.url}/health/ready", timeout=30).status_code == 503
        assert httpx.get(f"{gateway.url}/health/live").status_code == 200
        assert "GET /health/ready 503" in gateway.log.read_text(encoding="utf-8")
        gateway.wait_until_empty()


def test_health_figures_and_a_log_without_words(gateway, files: list[Path]) -> None:
    seconds, count = gateway.figure("audio_seconds_total"), gateway.figure("requests_total")
    text = gateway.text(files[0])
    assert httpx.get(f"{gateway.url}/health/ready").json() == {"status": "ready"}
    duration = soundfile.info(files[0]).duration
    assert gateway.figure("audio_seconds_total") - seconds == pytest.approx(duration, abs=1e-3)
    assert gateway.figure("requests_total") > count
    page = httpx.get(f"{gateway.url}/metrics").text
    assert 'requests_total{route="/v1/audio/transcriptions",status="200"}' in page and "_created" not in page
    log = gateway.log.read_text(encoding="utf-8")
    assert "POST /v1/audio/transcriptions 200" in log and "/health/ready 200" not in log
    assert not any(word in log for word in (*text.split(), files[0].name))


def test_a_gateway_that_stops_waits_for_uploads_a_moment_only(
    demo, files: list[Path], tmp_path: Path
) -> None:
    form = httpx.Request("POST", "http://x/v1/transcribe", files={"audio": files[0].read_bytes()})
    head = "".join(f"{name}: {value}\r\n" for name, value in form.headers.items())
    message = b"POST /v1/transcribe HTTP/1.1\r\n" + head.encode() + b"\r\n" + form.read()
    with GatewayProcess(demo.url, tmp_path / "g") as gateway:
        wanted = gateway.text(files[0])
        with (
            open_upload(gateway) as stalled,
            socket.create_connection(("127.0.0.1", httpx.URL(gateway.url).port)) as alive,
        ):
            alive.sendall(message[:5000])
            wait(lambda: gateway.figure("requests_in_flight") == 3)  # with that for the figures
            gateway.process.send_signal(signal.SIGTERM)
            wait(lambda: not gateway.is_live())
            alive.sendall(message[5000:])
            answers = [client.makefile("rb").read() for client in (alive, stalled)]
        gateway.process.wait(20)
    assert answers[0].startswith(b"HTTP/1.1 200") and wanted in answers[0].decode()
    assert answers[1].startswith(b"HTTP/1.1 503") and b"is being stopped" in answers[1]
    log = gateway.log.read_text(encoding="utf-8")
    assert "ERROR" not in log and "Traceback" not in log


def test_complaint_4_a_killed_gateway_leaves_its_files_to_the_next(demo, tmp_path: Path) -> None:
    with GatewayProcess(demo.url, tmp_path / "one") as gateway:
        client = open_upload(gateway)
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait()
        client.close()
        assert gateway.left()
        with GatewayProcess(demo.url, tmp_path / "two", "--folder", str(gateway.folder)):
            assert not gateway.left()
            assert len(list(gateway.folder.iterdir())) == 1
        assert not list(gateway.folder.iterdir())
