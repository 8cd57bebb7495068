"""`make serve`: what it takes for dead and what for busy, and what it lets clients do.

The judge on tables; then real servers, most of them with the demo's model. A model that hangs, as no model of
this project does, is a model of three lines.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.client.offline import AsrClient
from ko_asr.serving.access import RESTRICTED, RESTRICTING_OPTIONS, closed_to_clients
from ko_asr.serving.health import Answer, Judge, Look, Pauses, Probe, Process, broken_process, process_tree
from ko_asr.serving.server import TritonServer, free_ports, is_alive

ROOT = Path(__file__).resolve().parents[2]
ANSWERED, FAILED, REFUSED, SILENT = (Probe(answer, "why") for answer in Answer)


def judged(*looks: tuple[tuple[Probe, ...], int | None, float], every: float = 2.0) -> list[str | None]:
    """What a judge says to (probes, requests answered, seconds computed) every ``every`` seconds."""
    judge = Judge(0.0, stall=30.0, spin=600.0)
    times = (every * number for number in range(1, len(looks) + 1))
    return [judge.dead(Look(now, *look)) for now, look in zip(times, looks, strict=True)]


def test_silence_with_answers_to_others_is_busy() -> None:
    assert set(judged(*(((SILENT,), count, 1.0) for count in range(500)))) == {None}


def test_silence_with_work_is_busy_for_ten_minutes() -> None:
    said = judged(*(((), 7, 2.0 * look) for look in range(310)))
    assert set(said[:300]) == {None} and said[-1] == "nothing was answered for 600 s"


def test_silence_without_answers_or_work_is_death() -> None:
    idle = judged(*(((SILENT,), 7, 0.004 * look) for look in range(20)))
    assert set(idle[:15]) == {None} and idle[-1] == "nothing was answered or computed for 30 s"
    assert judged(*(((), None, 0.0) for _ in range(20)))[-1] == "nothing was answered or computed for 30 s"


@pytest.mark.parametrize("bad", [FAILED, REFUSED])
def test_two_failures_among_five_answers_are_death_and_one_is_not(bad: Probe) -> None:
    def said(*probes: Probe) -> str | None:
        return judged(*(((probe,), None, 0.0) for probe in probes))[-1]

    assert said(bad, bad) == said(bad, SILENT, ANSWERED, ANSWERED, ANSWERED, bad)
    assert said(bad, bad) == f"an inference {bad.answer.value}: why"
    assert said(bad, *[ANSWERED] * 4, bad) is None and said(bad, SILENT, SILENT) is None


@given(st.lists(st.sampled_from([ANSWERED, SILENT]), max_size=200))
def test_a_server_that_answers_others_never_dies(probes: list[Probe]) -> None:
    assert set(judged(*(((probe,), count, 0.0) for count, probe in enumerate(probes)))) <= {None}


def test_pauses_grow_to_a_bound_and_begin_again_after_good_service() -> None:
    pauses = Pauses(first=1.0, longest=60.0)
    assert [pauses.after(3.0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [pauses.after(61.0), pauses.after(5.0), pauses.after(61.0)] == [1, 2, 1]


@pytest.mark.parametrize("state", "RSDI")
def test_processes_that_run_or_wait_are_whole(state: str) -> None:
    assert broken_process([Process(7, 1, "triton_python_b", state, 0.0)]) is None


def test_processes_that_ended_or_stopped_are_not() -> None:
    assert broken_process([Process(7, 1, "triton_python_b", "Z", 0.0)]) == "a model's process (7) has died"
    assert broken_process([Process(7, 1, "tritonserver", "T", 0.0)]) == "the server's process (7) is stopped"
    assert broken_process([Process(7, 1, "sh", "Z", 0.0)]) is None  # whose, Triton knows


def test_the_key_is_new_each_time_and_the_users_options_stand() -> None:
    first, second = closed_to_clients(["--x=1"]), closed_to_clients(["--x=1"])
    assert first[:2] == second[:2] == ["--x=1", "--allow-http=false"] and not set(first[2:]) & set(second[2:])
    assert [option.partition("=")[0] for option in first[2:]] == list(RESTRICTING_OPTIONS)
    own = ["--allow-http=true", *(f"{option}=health:a=b" for option in RESTRICTING_OPTIONS)]
    assert closed_to_clients(own) == own


@dataclass
class Served:
    """A supervisor on ports of its own, and what it has written."""

    repository: Path
    log: Path
    code: str = "from ko_asr.serving.supervisor import Supervisor, Patience, Pauses\n"
    options: str = ""  # of Supervisor
    ports: tuple[int, ...] = field(default_factory=lambda: tuple(free_ports(3)))

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @contextlib.contextmanager
    def running(self) -> Iterator["Served"]:
        names = ("grpc", "http", "metrics")
        ports = [f"--{name}-port={port}" for name, port in zip(names, self.ports, strict=True)]
        arguments = ["--model-repository", str(self.repository), *ports]
        command = [sys.executable, str(ROOT / "export/serve.py"), *arguments]
        if self.options:  # that export/serve.py does not offer
            binary = Path(sys.executable).parent / "tritonserver"
            call = f"Supervisor({str(binary)!r}, {arguments}, {self.options}).run()"
            command = [sys.executable, "-c", f"import sys\n{self.code}sys.exit({call})"]
        with self.log.open("w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(command, stdout=stream, stderr=stream)
        try:
            self.wait_until_it_answers()
            time.sleep(1.0)  # until the supervisor has heard it, too
            yield self
        finally:
            server = self.server()
            self.process.terminate()
            assert self.process.wait(30) == 0
            assert not list(Path("/dev/shm").glob(f"ko_asr_triton_{server}_*"))

    def said(self, words: str) -> int:
        return self.log.read_text(encoding="utf-8").count(words)

    def wait_until_it_says(self, words: str, times: int, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.said(words) < times:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text("utf-8")
            time.sleep(0.05)

    def wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + 60
        while not is_alive(self.url, self.repository):
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)

    def server(self) -> int | None:
        """The process id of tritonserver, while there is one."""
        return next((one.pid for one in process_tree(self.process.pid) if one.name == "tritonserver"), None)

    def of_model(self, model: str) -> list[int]:
        found = []
        for process in process_tree(self.process.pid):
            with contextlib.suppress(OSError):
                if f"/{model}/".encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                    found.append(process.pid)
        return found


@pytest.fixture(scope="module")
def demo_served(demo, tmp_path_factory) -> Iterator[Served]:
    with Served(demo.repository, tmp_path_factory.mktemp("serve") / "log").running() as served:
        yield served


@pytest.mark.parametrize("times, number", [(1, signal.SIGKILL), (2, signal.SIGSTOP)])
def test_half_a_model_is_noticed_within_15_seconds_and_served_again(
    demo_served: Served, times: int, number: signal.Signals
) -> None:
    """Idle the first time, under load the second; a stopped process ends with its server."""
    victim, other = demo_served.of_model("asr_encoder")
    with ThreadPoolExecutor(4) as pool:
        over = threading.Event()
        load = [pool.submit(ask_until, demo_served.url, over) for _ in range(4 if times == 2 else 0)]
        os.kill(victim, number)
        demo_served.wait_until_it_says("is dead: a model's process", times, 15)
        over.set()
        assert sum(answers.result() for answers in load) > 0 or not load
    demo_served.wait_until_it_says("answers at", times + 1, 30)
    assert len(demo_served.of_model("asr_encoder")) == 2
    assert not Path(f"/proc/{victim}").exists() and not Path(f"/proc/{other}").exists()


def ask_until(url: str, over: threading.Event) -> int:
    """Ask for two seconds of silence again and again, and return how often that was answered."""
    answers = 0
    with triton.InferenceServerClient(url) as client:
        while not over.is_set():
            with contextlib.suppress(triton.InferenceServerException):
                client.infer("asr", [noise(2)], client_timeout=5)
                answers += 1
    return answers


def noise(seconds: int) -> triton.InferInput:
    samples = np.random.default_rng(0).normal(0, 0.1, (1, 16_000 * seconds)).astype(np.float32)
    audio = triton.InferInput("audio", list(samples.shape), "FP32")
    audio.set_data_from_numpy(samples)
    return audio


CLOSED = {
    "shared-memory": lambda client: client.register_system_shared_memory("theirs", "/theirs", 64),
    "model-repository": lambda client: client.unload_model("asr"),
    "trace": lambda client: client.update_trace_settings("asr", {"trace_level": "OFF"}),
    "logging": lambda client: client.update_log_settings({"log_verbose_level": 9}),
}


@pytest.mark.parametrize("service", RESTRICTED)
def test_clients_are_refused_what_recognition_does_not_need(demo_served: Served, service: str) -> None:
    with (
        triton.InferenceServerClient(demo_served.url) as client,
        pytest.raises(triton.InferenceServerException, match="This protocol is restricted"),
    ):
        CLOSED[service](client)


def test_clients_get_what_they_need_and_http_is_off(demo_served: Served) -> None:
    with AsrClient(demo_served.url) as client:
        client.check()
        assert client.transcribe(np.zeros(16_000, np.float32)).text == ""
    with triton.InferenceServerClient(demo_served.url) as client:
        assert client.is_server_live() and client.is_model_ready("asr")
        assert (
            client.get_server_metadata().name == "triton" and client.get_model_metadata("asr").name == "asr"
        )
        assert client.get_inference_statistics("asr").model_stats[0].inference_stats.success.count > 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", demo_served.ports[1])) != 0


def test_a_busy_server_is_left_alone(demo, tmp_path: Path) -> None:
    """So much speech at once that probes stay unanswered for many times the patience."""
    patience = "interval=0.2, patience=Patience(probe=0.1, stall=1.0)"
    with Served(demo.repository, tmp_path / "log", options=patience).running() as served:
        first = served.server()

        def ask(_: int) -> bool:
            with triton.InferenceServerClient(served.url) as client:
                return client.infer("asr", [noise(14)], client_timeout=120).as_numpy("text") is not None

        with ThreadPoolExecutor(64) as pool:
            answers = pool.map(ask, range(192))
            time.sleep(1.0)
            with (
                triton.InferenceServerClient(served.url) as client,
                pytest.raises(Exception, match="Deadline"),
            ):
                client.infer("asr", [noise(1)], client_timeout=0.1)
            assert all(answers)
        assert served.server() == first and served.said("is dead") == 0


HANGS = """
import time, numpy, pathlib
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        while pathlib.Path({folder!r}, "hang").exists():
            time.sleep(0.1)
        answer = pb.Tensor("text", numpy.zeros((1, 1), numpy.float32))
        return [pb.InferenceResponse([answer]) for _ in requests]
"""
CONFIG = """
backend: "python"
max_batch_size: 4
input [{ name: "audio" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "text" data_type: TYPE_FP32 dims: [1] }]
instance_group [{ kind: KIND_CPU }]
"""
ENSEMBLE = """
platform: "ensemble"
max_batch_size: 4
input [{ name: "audio" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "text" data_type: TYPE_FP32 dims: [1] }]
ensemble_scheduling { step [{
  model_name: "hanging" model_version: -1
  input_map { key: "audio" value: "audio" }
  output_map { key: "text" value: "text" }
}] }
"""


@pytest.fixture
def hanging(tmp_path: Path) -> Path:
    """A repository whose ensemble hangs while there is a file "hang" beside it."""
    repository = tmp_path / "triton"
    for name, config in (("asr", ENSEMBLE), ("hanging", CONFIG)):
        (repository / name / "1").mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config, encoding="utf-8")
    model = HANGS.format(folder=str(tmp_path))
    (repository / "hanging" / "1" / "model.py").write_text(model, encoding="utf-8")
    return repository


@pytest.mark.slow  # needs the server's installation
def test_a_server_that_hangs_is_dead(hanging: Path, tmp_path: Path) -> None:
    options = "interval=0.3, patience=Patience(probe=1.0, stall=3.0)"
    with Served(hanging, tmp_path / "log", options=options).running() as served:
        (tmp_path / "hang").touch()
        served.wait_until_it_says("is dead: asr: nothing was answered or computed for 3 s", 1, 15)
        (tmp_path / "hang").unlink()
        served.wait_until_it_says("answers at", 2, 30)


@pytest.mark.slow
def test_the_containers_check_ends_a_server_that_hangs(hanging: Path, tmp_path: Path) -> None:
    """After half a minute, which the file that it leaves has been made to show here."""
    with TritonServer(hanging, ROOT / ".server") as server:
        assert server.process is not None
        pid = str(server.process.pid)
        command = [sys.executable, str(ROOT / "export/healthcheck.py"), "--url", server.http_url]
        command += ["--timeout", "2", "--stop", pid]
        environment = os.environ | {"TMPDIR": str(tmp_path)}

        def check() -> tuple[int, str]:
            done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment)
            return done.returncode, done.stdout.strip()

        assert check() == (0, f"{server.http_url} is alive: asr")
        (tmp_path / "hang").touch()
        late = (1, f"{server.http_url} is not ready: no answer to /v2/models/asr/infer in time")
        assert check() == late and server.process.poll() is None
        mark = tmp_path / f"ko_asr_late_{pid}"
        os.utime(mark, (time.time() - 31, time.time() - 31))
        assert check() == late
        server.process.wait(20)


@pytest.mark.slow
def test_neither_a_full_disk_nor_six_deaths_end_it(hanging: Path) -> None:
    """Its standard output and error are full; it pauses longer and longer, and never gives up."""
    options = "interval=0.2, pauses=Pauses(first=0.1, longest=1.6)"
    with Served(hanging, Path("/dev/full"), options=options).running() as served:
        for _ in range(6):
            dead = served.server()
            assert dead is not None
            os.kill(dead, signal.SIGKILL)
            while served.server() in (dead, None):
                assert served.process.poll() is None
                time.sleep(0.05)
            served.wait_until_it_answers()
        assert not list(Path("/dev/shm").glob(f"ko_asr_triton_{dead}_*"))


def test_a_closed_standard_output_does_not_end_it(hanging: Path, tmp_path: Path) -> None:
    ports = [f"--{name}-port={port}" for name, port in zip(("grpc", "metrics"), free_ports(2), strict=True)]
    command = [sys.executable, str(ROOT / "export/serve.py"), "--model-repository", str(hanging), *ports]
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        closed = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
        process = subprocess.Popen(closed, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while "answers at" not in (tmp_path / "log").read_text(encoding="utf-8"):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            process.terminate()
            assert process.wait(30) == 0
