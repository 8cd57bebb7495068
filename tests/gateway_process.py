"""A real gateway, `python -m ko_asr.gateway` in its own environment, for the length of a ``with`` block."""

import json
import os
import shutil
import subprocess
import time
from functools import cached_property
from pathlib import Path

import httpx
from openai import OpenAI

from ko_asr.serving.server import DYING_WITH_PARENT, free_ports

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".gateway/bin/python"
QUICK_JOBS = (
    *("--job-poll", "0.1", "--job-lease", "3", "--job-sweep-every", "0.3", "--job-save-every", "20"),
    *("--webhook-timeout", "1", "--webhook-scale", "0.01", "--job-max-hours", "0.35"),
    *("--allow-callback", "127.0.0.1", "--allow-url", "127.0.0.1", "--allow-url", "audio.example"),
)


class GatewayProcess:
    """A gateway on a free port in front of ``triton``; ``folder`` gets its temporary files and its log.

    ``file_kib`` bounds every file that it writes, as a full disk would; the command ``prefix`` runs
    it.
    """

    def __init__(
        self,
        triton: str | None,
        folder: Path,
        *arguments: str,
        file_kib: int | None = None,
        environment: dict[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> None:
        assert PYTHON.exists(), "no .gateway: make it with make setup-gateway"
        self.folder, self.log, self.data = folder / "files", folder / "log", folder / "data"
        self.folder.mkdir(parents=True)
        self._port, self._environment = free_ports(1)[0], {**os.environ, **(environment or {})}
        self.url = f"{'https' if '--tls-cert' in arguments else 'http'}://127.0.0.1:{self._port}"
        command = [*prefix, str(PYTHON), "-m", "ko_asr.gateway", *(["--triton", triton] if triton else [])]
        own = ("--port", self._port, "--folder", self.folder, "--data", self.data)
        self._command = [*command, *map(str, own), *arguments]
        if file_kib:
            limited = f'ulimit -f {file_kib}; exec "$@"'
            self._command = [str(shutil.which("bash")), "-c", limited, "bash", *self._command]

    def __enter__(self) -> "GatewayProcess":
        with self.log.open("w", encoding="utf-8") as stream:
            command = [*DYING_WITH_PARENT, *self._command]
            self.process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, cwd="/", env=self._environment
            )
        deadline = time.monotonic() + 60
        while not self.is_live():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def is_live(self) -> bool:
        """True where it takes requests."""
        try:
            return httpx.get(f"{self.url}/health/live", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    @cached_property
    def sdk(self) -> OpenAI:
        """OpenAI's own client, which never tries again."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=120)

    def post(self, path: str = "/v1/audio/transcriptions", **request) -> httpx.Response:
        """Send a form."""
        return httpx.post(f"{self.url}{path}", timeout=120, **request)

    def text(self, path: Path) -> str:
        """The text of an audio file."""
        with path.open("rb") as file:
            return self.sdk.audio.transcriptions.create(model="asr", file=file).text

    def error(self, status: int, **request) -> dict:
        """The error of a form that must be refused with ``status``, in OpenAI's shape."""
        answer = self.post(**request)
        assert answer.status_code == status, answer.text
        assert answer.headers["x-request-id"].startswith("req_")
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"} and error["message"]
        return error

    def job(self, file: Path | None = None, **fields: str) -> str:
        """Make a job; its id."""
        files = {"file": file.read_bytes()} if file else {"url": (None, fields.pop("url"))}
        answer = self.post("/v1/jobs", data=fields, files=files)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job_state(self, job: str) -> dict:
        """What GET /v1/jobs/{id} answers."""
        answer = httpx.get(f"{self.url}/v1/jobs/{job}", timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ended(self, job: str, seconds: float = 60) -> dict:
        """The state of a job that has ended; waits for it."""
        deadline = time.monotonic() + seconds
        while (state := self.job_state(job))["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        return state

    def result(self, job: str, **query: str) -> httpx.Response:
        """The transcript of a job."""
        return httpx.get(f"{self.url}/v1/jobs/{job}/result", params=query, timeout=30)

    def uploads(self) -> list[Path]:
        """The files of jobs."""
        return [path for path in (self.data / "files").rglob("*") if path.is_file()]

    @property
    def webhook_secret(self) -> str:
        """What callers verify webhooks with."""
        return (self.data / "webhook-secret").read_text(encoding="ascii").strip()

    def left(self) -> list[Path]:
        """The folders of requests that are on board."""
        return [path for path in self.folder.glob("ko-asr-gateway-*/*") if path.is_dir()]

    def wait_until_empty(self) -> None:
        """Until no request has a folder."""
        deadline = time.monotonic() + 30
        while self.left():
            assert time.monotonic() < deadline, self.left()
            time.sleep(0.05)

    def figure(self, name: str) -> float:
        """The sum of a metric over its labels."""
        page = httpx.get(f"{self.url}/metrics").text
        lines = [line for line in page.splitlines() if line.startswith(f"ko_asr_gateway_{name}")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def memory_mib(self) -> float:
        """The most memory that the process has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024


class JobWorker:
    """A worker of jobs, `python -m ko_asr.gateway.worker`, in a process that is easily killed."""

    def __init__(self, triton: str, folder: Path, *arguments: str, environment: dict[str, str] | None = None):
        folder.mkdir(parents=True, exist_ok=True)
        command = [str(PYTHON), "-m", "ko_asr.gateway.worker", "--triton", triton, "--folder", str(folder)]
        self._command = [*DYING_WITH_PARENT, *command, *arguments]
        self.log, self._environment = folder / "log", environment
        self.start()

    def __enter__(self) -> "JobWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)

    def start(self) -> None:
        """Start it, again after a `kill`."""
        environment = {**os.environ, **(self._environment or {})}
        with self.log.open("w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                self._command, stdout=stream, stderr=subprocess.STDOUT, cwd="/", env=environment
            )

    def is_ready(self) -> bool:
        """True once it looks for work."""
        return "at a time" in self.log.read_text(encoding="utf-8")

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        self.process.kill()
        self.process.wait()


def ffmpeg() -> str | None:
    """The ffmpeg that the gateway's environment finds; it makes the tests' files too."""
    code = (
        "import json; from ko_asr.gateway.audio.ffmpeg import find_ffmpeg; print(json.dumps(find_ffmpeg()))"
    )
    found = subprocess.run([PYTHON, "-c", code], capture_output=True, check=True, cwd="/")
    return json.loads(found.stdout)
