"""What goes wrong in production, on a real server: clients, model processes, signals, reloads, bad input."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tritonclient.grpc as triton

from ko_asr.client.connection import ServerError, StreamsFull, Tls
from ko_asr.client.offline import AsrClient
from ko_asr.client.streaming import StreamingClient
from ko_asr.data.manifest import read_manifest
from ko_asr.runtime.options import StreamOptions
from ko_asr.serving.server import TritonServer, free_ports, is_alive

ROOT = Path(__file__).resolve().parents[2]
PLACES, IDLE, TIME_TO_LIVE = 6, 2, 3
WHOLE = StreamOptions(endpointing=None)
RULES = (
    (r"(max_sequence_idle_microseconds: )\d+", rf"\g<1>{IDLE}000000"),
    (r"(max_candidate_sequences: )\d+", rf"\g<1>{2 * PLACES}"),
    (r'(key: "time_to_live"\s+value \{\s+string_value: ")[^"]+', rf"\g<1>{TIME_TO_LIVE}"),
    (r'(key: "max_streams"\s+value \{\s+string_value: ")[^"]+', rf"\g<1>{PLACES}"),
)


@pytest.fixture(scope="module")
def repository(streaming_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The streaming ensemble with few places and little patience."""
    copy = tmp_path_factory.mktemp("faults") / "triton"
    shutil.copytree(streaming_repository, copy, ignore=shutil.ignore_patterns("*_1", "__pycache__"))
    for path in copy.glob("*/config.pbtxt"):
        text = path.read_text(encoding="utf-8")
        for pattern, value in RULES:
            text = re.sub(pattern, value, text)
        path.write_text(text, encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def server(demo, repository: Path):
    with TritonServer(repository, demo.server) as running:
        yield running


@pytest.fixture(scope="module")
def files(demo) -> list[str]:
    return [entry["audio_filepath"] for entry in list(read_manifest(demo.manifests["eval_clean"]))[:PLACES]]


@pytest.fixture(scope="module")
def audio(files: list[str]) -> np.ndarray:
    return soundfile.read(files[0], dtype="float32")[0]


def text_of(results: list) -> str:
    return " ".join(result.text for result in results if result.is_final)


def heard(url: str, samples: np.ndarray) -> str:
    with StreamingClient(url) as client, client.open(WHOLE) as stream:
        return text_of([*stream.send(samples), *stream.finish()])


@pytest.fixture(scope="module")
def wanted(server: TritonServer, audio: np.ndarray) -> str:
    text = heard(server.url, audio)
    assert text
    return text


def places_taken(url: str, samples: np.ndarray, count: int) -> int:
    """How many of ``count`` streams the server takes at once."""
    taken = 0
    with StreamingClient(url) as client:
        streams = [client.open() for _ in range(count)]
        for stream in streams:
            try:
                stream.send(samples[:5000])
                taken += 1
            except StreamsFull:
                pass
        for stream in streams:
            stream.close()
    return taken


def wait_for_places(url: str, samples: np.ndarray) -> None:
    """Until all places are free, which they are when what held them has been idle for long enough."""
    deadline = time.monotonic() + IDLE + TIME_TO_LIVE + 5
    while places_taken(url, samples, PLACES) < PLACES:
        assert time.monotonic() < deadline, "places stay taken"
        time.sleep(0.5)


def test_more_streams_than_places_are_refused_at_once_and_vanished_clients_free_theirs(
    server: TritonServer, files: list[str], audio: np.ndarray
) -> None:
    assert places_taken(server.url, audio, PLACES + 3) == PLACES
    command = [
        sys.executable,
        str(ROOT / "recipes/stream_client.py"),
        *files,
        "--url",
        server.url,
        "--realtime",
    ]
    command += ["--concurrency", str(PLACES), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as client:
        assert client.stdout is not None
        seen = set()
        while len(seen) < PLACES:
            seen.add(json.loads(client.stdout.readline())["file"])
        client.send_signal(signal.SIGKILL)
    started = time.monotonic()
    with StreamingClient(server.url) as one, one.open() as stream, pytest.raises(StreamsFull, match="taken"):
        stream.send(audio[:5000])
    assert time.monotonic() - started < 2.0
    wait_for_places(server.url, audio)


BAD = {
    "int16": ("INT16", np.zeros((1, 5000), np.int16)),
    "float64": ("FP64", np.zeros((1, 5000))),
    "two channels": ("FP32", np.zeros((1, 2, 5000), np.float32)),
    "two rows": ("FP32", np.zeros((2, 5000), np.float32)),
    "empty": ("FP32", np.zeros((1, 0), np.float32)),
    "NaN": ("FP32", np.full((1, 5000), np.nan, np.float32)),
    "infinite": ("FP32", np.full((1, 5000), np.inf, np.float32)),
    "absurd values": ("FP32", np.tile(np.array([3e38, -3e38], np.float32), 2500)[None]),
}


def refused(
    client: triton.InferenceServerClient, number: int, name: str, kind: str, array: np.ndarray
) -> None:
    """Begin sequence ``number`` with bad audio, which is refused, and end it."""
    tensor = triton.InferInput("audio", list(array.shape), kind)
    tensor.set_data_from_numpy(array)
    nothing = triton.InferInput("audio", [1, 0], "FP32")
    nothing.set_data_from_numpy(np.zeros((1, 0), np.float32))
    key = {"sequence_id": number, "client_timeout": 20}
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer("asr_streaming", [tensor], sequence_start=True, **key)
    assert str(caught.value.status()) == "StatusCode.INVALID_ARGUMENT", (name, caught.value)
    with pytest.raises(triton.InferenceServerException):
        client.infer("asr_streaming", [nothing], sequence_end=True, **key)


def test_bad_requests_are_invalid_arguments_and_cost_no_place(
    server: TritonServer, audio: np.ndarray, wanted: str
) -> None:
    with triton.InferenceServerClient(server.url) as client:
        for number in range(1, 2 * PLACES + 1):
            for case, (name, (kind, array)) in enumerate(BAD.items()):
                refused(client, 100 * number + case, name, kind, array)
        assert places_taken(server.url, audio, PLACES) == PLACES
        hour = np.zeros((1, 16_000 * 3600), np.float32)
        for number in (1, 2):
            refused(client, number, "an hour", "FP32", hour)
    # Triton may take such a sequence for idle (here after two seconds) while it still copies the audio.
    wait_for_places(server.url, audio)
    assert heard(server.url, audio) == wanted


def test_broken_streams_leak_no_word_no_place_and_no_memory(
    demo, streaming_repository, tmp_path: Path
) -> None:
    """The full ten thousand: bench/soak.py without --sequences.

    240 streams are still filling the tables, so the limit on memory bites in the long run only.
    """
    out = tmp_path / "soak.json"
    command = [sys.executable, str(ROOT / "bench/soak.py"), "--repository", str(streaming_repository)]
    command += ["--manifest", str(demo.manifests["eval_clean"]), "--server", str(demo.server)]
    command += ["--sequences", "240", "--max-growth-mb", "150", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert sum(result["broken"].values()) == 240
    assert result["witness_utterances"] >= 4 and result["leaks"] == []
    assert result["places_free_at_the_end"] == result["places"]


def descendants(process: int) -> list[int]:
    children = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
    return [pid for child in map(int, children) for pid in (child, *descendants(child))]


def model_process(ancestor: int, model: str) -> int:
    """The process of a Python model below ``ancestor``."""
    for pid in descendants(ancestor):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"stub" in command.partition(b"\0")[0] and f"/{model}/".encode() in command:
            return pid
    raise AssertionError(f"no process of {model}")


@dataclass
class Supervised:
    """`export/serve.py`, as `make serve` runs it, and what it has written."""

    process: subprocess.Popen
    url: str
    log: Path

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def wait_until_it_says(self, words: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while words not in self.said():
            assert self.process.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.1)


@pytest.fixture(scope="module")
def supervised(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    grpc, http, metrics = free_ports(3)
    ports = [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"]
    command = [sys.executable, str(ROOT / "export/serve.py"), "--model-repository", str(repository), *ports]
    log = tmp_path_factory.mktemp("supervised") / "serve.log"
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    served = Supervised(process, f"127.0.0.1:{grpc}", log)
    try:
        served.wait_until_it_says(f"answers at {served.url}", 60)
        yield served
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def survived(supervised: Supervised, audio: np.ndarray) -> str:
    """The text of a stream whose decoder was killed halfway, which was noticed within ten seconds."""
    with StreamingClient(supervised.url) as client, client.open(WHOLE) as stream:
        half = len(audio) // 2
        results = stream.send(audio[:half])
        os.kill(model_process(supervised.process.pid, "asr_streaming_decoder"), signal.SIGKILL)
        supervised.wait_until_it_says("tritonserver is dead: a model's process", 10)
        return text_of([*results, *stream.send(audio[half:]), *stream.finish()])


def test_a_killed_model_is_noticed_and_the_stream_resumes(survived: str, wanted: str) -> None:
    assert survived == wanted


def test_the_server_of_a_killed_model_is_started_again(
    supervised: Supervised, survived: str, repository: Path
) -> None:
    assert supervised.process.poll() is None and is_alive(supervised.url, repository)


@dataclass
class Stopped:
    """What clients have heard of a server that was told to stop: texts, and the failure that ended each."""

    status: int
    texts: list[str]
    failures: list[ServerError]


@pytest.fixture(scope="module")
def stopped(supervised: Supervised, survived: str, audio: np.ndarray) -> Stopped:
    """The server that came back, after SIGTERM under the load of as many streams as it has places."""
    texts: list[str] = []
    failures: list[ServerError] = []

    def talk() -> None:
        with StreamingClient(supervised.url, reconnect=0.0) as client:
            try:
                while True:
                    with client.open(WHOLE) as stream:
                        texts.append(text_of([*stream.send(audio), *stream.finish()]))
            except ServerError as error:
                failures.append(error)

    talkers = [threading.Thread(target=talk) for _ in range(PLACES)]
    for talker in talkers:
        talker.start()
    time.sleep(2.0)
    supervised.process.terminate()
    for talker in talkers:
        talker.join(20)
    return Stopped(supervised.process.wait(20), texts, failures)


def test_sigterm_answers_what_was_taken(stopped: Stopped, supervised: Supervised, wanted: str) -> None:
    assert stopped.status == 0, supervised.said()
    assert set(stopped.texts) == {wanted}


def test_sigterm_refuses_the_rest_and_drops_nothing(stopped: Stopped) -> None:
    """Refused or not reached, but nothing that was accepted is dropped with its connection."""
    assert [error.code for error in stopped.failures] == ["UNAVAILABLE"] * PLACES
    causes = [str(error.__cause__) for error in stopped.failures]
    assert not [cause for cause in causes if "Socket closed" in cause or "reset" in cause], causes


def test_a_model_reloaded_under_load_costs_no_word(
    demo, repository: Path, audio: np.ndarray, wanted: str
) -> None:
    arguments = ("--model-control-mode=explicit", "--load-model=asr_streaming")
    with TritonServer(repository, demo.server, arguments) as server:
        answers: list[str] = []
        over = threading.Event()

        def talk() -> None:
            while not over.is_set():
                answers.append(heard(server.url, audio))

        talkers = [threading.Thread(target=talk) for _ in range(3)]
        for talker in talkers:
            talker.start()
        with triton.InferenceServerClient(server.url) as client:
            for model in ("asr_streaming_decoder", "asr_streaming_preprocessor"):
                time.sleep(0.5)
                path = repository / model / "config.pbtxt"
                os.utime(path)
                client.load_model(model)
        time.sleep(0.5)
        over.set()
        for talker in talkers:
            talker.join(60)
        assert len(answers) >= 3 and set(answers) == {wanted}


def test_streams_over_tls(demo, repository: Path, audio: np.ndarray, wanted: str, tmp_path: Path) -> None:
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += [
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(key),
        "-out",
        str(chain),
    ]
    subprocess.run(command, check=True, capture_output=True)
    grpc, http, metrics = free_ports(3)
    options = ["--grpc-use-ssl=true", f"--grpc-server-cert={chain}", f"--grpc-server-key={key}"]
    options += [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"]
    server = Path(sys.executable).parent / "tritonserver"
    process = subprocess.Popen(
        [server, "--model-repository", repository, *options], stderr=subprocess.DEVNULL
    )
    try:
        with StreamingClient(f"localhost:{grpc}", tls=Tls(chain)) as client:
            deadline = time.monotonic() + 30
            while not ready(client):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            with client.open(WHOLE) as stream:
                assert text_of([*stream.send(audio), *stream.finish()]) == wanted
        with StreamingClient(f"localhost:{grpc}") as plain, pytest.raises(ServerError):
            plain.sizes()
        # The offline client gets as far as to hear that this repository has no such ensemble.
        for tls, answer in ((Tls(chain), "does not serve 'asr'"), (None, "no server answers")):
            with AsrClient(f"localhost:{grpc}", tls=tls) as offline, pytest.raises(ServerError, match=answer):
                offline.check()
    finally:
        process.terminate()
        process.wait(20)


def ready(client: StreamingClient) -> bool:
    try:
        return client.sizes().max_streams == PLACES
    except ServerError:
        return False


def test_serve_says_in_one_sentence_what_it_lacks(tmp_path: Path) -> None:
    for arguments, words in (
        (["--model-repository", str(tmp_path)], "holds no filled model"),
        (["--http-port=1"], "give --model-repository"),
    ):
        command = [sys.executable, str(ROOT / "export/serve.py"), *arguments]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=60)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
