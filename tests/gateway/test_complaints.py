"""What users of other gateways complain about, by its number in the issue, where no other file has it."""

import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from gateway_process import GatewayProcess, ffmpeg

UPLOAD = 25 << 20  # the default limit in bytes


def family_mib(gateway: GatewayProcess) -> float:
    """The memory of the gateway and of the decoders that it has started."""
    pid = gateway.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return sum(map(resident_mib, (str(pid), *children)))


def resident_mib(pid: str) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * 4096 / 2**20
    except OSError:  # it has ended
        return 0.0


def flac(path: Path, seconds: int) -> Path:
    """Silence, which takes a thousandth of its length."""
    if (converter := ffmpeg()) is None:
        pytest.skip("no ffmpeg on this machine")
    silence = ("-f", "lavfi", "-i", "anullsrc=r=16000:cl=mono", "-t", str(seconds), "-c:a", "flac")
    subprocess.run([converter, "-loglevel", "error", *silence, path], check=True)
    return path


@pytest.fixture(scope="module")
def hours_of_opus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nearly 25 MB that are more than eight hours: a minute, again and again."""
    if (converter := ffmpeg()) is None:
        pytest.skip("no ffmpeg on this machine")
    folder = tmp_path_factory.mktemp("opus")
    call = [converter, "-loglevel", "error"]
    # With the encoder's delay of 6.5 ms these are whole packets, so that they may follow one another.
    quiet = ("-f", "lavfi", "-i", "anoisesrc=r=48000:a=0.001:d=59.9935")
    codec = ("-c:a", "libopus", "-b:a", "6.2k", "-vbr", "off", "-frame_duration", "60")
    subprocess.run([*call, *quiet, *codec, folder / "minute.ogg"], check=True)
    again = ("-stream_loop", "497", "-i", folder / "minute.ogg", "-c", "copy")
    times = ("-bsf:a", "setts=ts=N*2880:duration=2880")
    subprocess.run([*call, *again, *times, folder / "hours.ogg"], check=True)
    return folder / "hours.ogg"


def test_complaint_1_a_small_file_of_eight_hours_takes_no_memory(gateway, hours_of_opus: Path) -> None:
    data = hours_of_opus.read_bytes()
    assert 20e6 < len(data) < UPLOAD
    before = family_mib(gateway)
    with httpx.Client(timeout=120) as client:
        answer = client.post(
            f"{gateway.url}/v1/audio/transcriptions", data={"model": "asr"}, files={"file": data}
        )
    assert answer.status_code == 413
    error = answer.json()["error"]
    assert error["code"] == "audio_too_long" and "send it to /v1/jobs" in error["message"]
    assert family_mib(gateway) - before < 64
    gateway.wait_until_empty()


def test_complaint_1_an_upload_that_never_ends_is_refused_at_the_limit(gateway) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        while True:
            sent += 1 << 20
            yield bytes(1 << 20)

    before = family_mib(gateway)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    try:
        answer = gateway.post(content=endless(), headers=headers)
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "file_too_large"
    except httpx.TransportError:  # it was closed while more was on its way
        pass
    assert sent < 4 * UPLOAD
    assert family_mib(gateway) - before < 64
    gateway.wait_until_empty()


def test_complaint_4_what_a_broken_request_leaves_disturbs_no_later_one(gateway, files: list[Path]) -> None:
    wanted, data = gateway.text(files[0]), files[0].read_bytes()
    for _ in range(3):
        for broken in (data[:2000], b"", b"no audio"):
            answer = gateway.post(data={"model": "asr"}, files={"file": ("speech.flac", broken)})
            assert answer.status_code in (400, 415)
        answer = gateway.post(data={"model": "asr"}, files={"file": ("speech.flac", data)})
        assert answer.json()["text"] == wanted
    gateway.wait_until_empty()


def test_complaint_5_health_is_an_inference(tmp_path: Path) -> None:
    """Behind it is a server that takes connections and hangs."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        address = f"127.0.0.1:{hanging.getsockname()[1]}"
        with GatewayProcess(address, tmp_path / "g") as gateway:
            begun = time.monotonic()
            answer = httpx.get(f"{gateway.url}/health/ready", timeout=30)
            assert answer.status_code == 503 and time.monotonic() - begun < 20
            assert answer.headers["retry-after"]
            assert httpx.get(f"{gateway.url}/health/live").status_code == 200


def test_complaint_10_no_length_is_fixed(demo, tmp_path: Path) -> None:
    long = flac(tmp_path / "long.flac", 1900)
    with GatewayProcess(demo.url, tmp_path / "g", "--max-seconds-sync", "2000") as gateway:
        answer = gateway.post(data={"model": "asr"}, files={"file": long.read_bytes()})
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["seconds"] == pytest.approx(1900, abs=0.1)
