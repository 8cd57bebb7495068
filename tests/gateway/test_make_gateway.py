"""`make gateway`: both servers with one command, and what a user is told when that cannot be."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import httpx
from backing_services import wait_until
from gateway_process import ROOT

from ko_asr.serving.server import free_ports


def make(repository: Path, port: int, grpc: int, data: Path) -> subprocess.Popen[str]:
    # -o: what is installed stays as it is.
    command = ["make", "-s", "-o", ".server/.ready", "-o", ".gateway/.ready", "gateway", f"PORT={port}"]
    options = [f"TRITON=127.0.0.1:{grpc}", f"REPOSITORY={repository}", f"OPTIONS=--data {data}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    # Within `make test` it would look for the jobs of that one, and say that there are none.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.Popen([*command, *options], cwd=ROOT, start_new_session=True, env=environment, **pipes)


def two_ports() -> tuple[int, int]:
    """Of HTTP and gRPC; that behind gRPC's is for the server's figures."""
    while True:
        http, grpc = free_ports(2)
        with socket.socket() as behind:
            if grpc < 65_535 and behind.connect_ex(("127.0.0.1", grpc + 1)):
                return http, grpc


def test_a_port_that_is_taken_is_noticed_first(tmp_path: Path) -> None:
    http, grpc = two_ports()
    with socket.create_server(("127.0.0.1", http)):
        said = make(tmp_path, http, grpc, tmp_path / "data").communicate(timeout=60)[0]
    assert said.splitlines()[0] == f"error: port {http} is taken: give another one, as make gateway PORT=9001"
    assert "tritonserver" not in said and not (ROOT / f".build/tritonserver-{grpc}.log").exists()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    http, grpc = two_ports()
    ended = make(tmp_path / "none", http, grpc, tmp_path / "data")
    said = ended.communicate(timeout=120)[0]
    log = ROOT / f".build/tritonserver-{grpc}.log"
    assert (
        ended.returncode
        and f"error: tritonserver did not start: the whole log is {log.relative_to(ROOT)}" in said
    )
    assert log.read_text(encoding="utf-8").splitlines()[-1] in said and len(said.splitlines()) < 20
    log.unlink()


def test_both_start_and_end(both_models: Path, files: list[Path], tmp_path: Path) -> None:
    http, grpc = two_ports()
    url, log = f"http://127.0.0.1:{http}", ROOT / f".build/tritonserver-{grpc}.log"

    def is_ready() -> bool:
        assert running.poll() is None
        with socket.socket() as door:
            return not door.connect_ex(("127.0.0.1", http))

    running = make(both_models, http, grpc, tmp_path / "data")
    try:
        wait_until(is_ready, 120)
        answer = httpx.post(f"{url}/v1/transcribe", files={"audio": files[0].read_bytes()}, timeout=60)
        assert answer.json()["text"]
        running.terminate()
        said = running.communicate(timeout=60)[0]
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert f"its log is {log.relative_to(ROOT)}" in said and len(said.splitlines()) < 15
    assert "asr_encoder" in log.read_text(encoding="utf-8")
    for port in (http, grpc):
        with socket.socket() as door:
            assert door.connect_ex(("127.0.0.1", port))
    log.unlink()
