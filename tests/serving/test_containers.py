"""What can be known of the containers without running them, and the health check against a real server.

NVIDIA's image is neither built nor run here: Dockerfile and compose.yaml are linted (`make lint`) and
compared with the repository's files and with each other.
"""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc as triton
import yaml

from ko_asr.runtime import failure, file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.driver import compute_capability
from ko_asr.runtime.plan_record import PlanRecord, library_version, save_plan
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.access import RESTRICTED, RESTRICTING_OPTIONS, closed_to_clients
from ko_asr.serving.health import process_tree
from ko_asr.serving.server import DYING_WITH_PARENT, PROCESS_SETTINGS, TritonServer, free_ports
from ko_asr.serving.staging import staging

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES = COMPOSE["services"]


def lines(name: str) -> list[str]:
    """The lines of a file of the repository that say something."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def read_stages() -> dict[str, dict[str, list[str]]]:
    """Stage -> instruction -> its arguments, in order; a stage begins with what the one below it says."""
    stages: dict[str, dict[str, list[str]]] = {}
    for line in lines("Dockerfile"):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.split()
            stages[name] = defaultdict(
                list, {key: list(value) for key, value in stages.get(base, {}).items()}
            )
        stages[name][word].append(rest.strip())
    return stages


STAGES = read_stages()


def in_image(stage: str, path: str) -> bool:
    """Whether a COPY of the stage brings the repository's file ``path`` to the same place of its WORKDIR."""
    for copy in STAGES[stage]["COPY"]:
        *sources, target = copy.split()
        for source in sources:
            inside = (
                PurePosixPath(source) if source == "." else PurePosixPath(target) / PurePosixPath(source).name
            )
            direct = PurePosixPath(target) if not target.endswith("/") else inside
            if source == "." or (path == str(inside) and path == source) or path.startswith(f"{direct}/"):
                return True
    return False


def pins(name: str) -> dict[str, str]:
    return dict(line.split("==") for line in lines(name) if "==" in line)


def test_versions_are_stated_once() -> None:
    gpu = pins("requirements-gpu.txt")
    tags = [base for base in (line.split()[0] for line in STAGES["serve"]["FROM"]) if "tritonserver" in base]
    assert len(tags) == 1 and re.fullmatch(r"nvcr\.io/nvidia/tritonserver:\d\d\.\d\d-py3", tags[0])
    release = tags[0].partition(":")[2].removesuffix("-py3")
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", "compose.yaml")}
    for text in texts.values():
        assert set(re.findall(r"\b2\d\.\d\d\b", text)) <= {release}
    # The command of the serve stage takes the plan's packages from the files that pin them.
    (command,) = STAGES["serve"]["RUN"]
    made = subprocess.run(shlex.split(command.partition(">")[0]), cwd=ROOT, capture_output=True, text=True)
    assert dict(line.split("==") for line in made.stdout.split()) == {
        "tensorrt-cu13-bindings": gpu["tensorrt"],
        "onnxruntime": pins("requirements.txt")["onnxruntime"],
        "numpy": pins("requirements.txt")["numpy"],
    }
    # Both wheels fill the same folder: of one version, the second only adds its CUDA provider.
    assert gpu["onnxruntime-gpu"] == pins("requirements.txt")["onnxruntime"]
    stated = re.search(r"# Triton (\S+) carries TensorRT (\S+) and ONNX Runtime (\S+),", texts["Dockerfile"])
    assert stated is not None and stated[1] == release and gpu["tensorrt"].startswith(f"{stated[2]}.")
    assert pins("requirements-rtx.txt")["onnxruntime"] == stated[3]


RTX = ROOT / ".rtx" / "bin" / "python"
RUN_GRAPH = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
with numpy.load(sys.argv[2]) as feeds:
    outputs = session.run(None, dict(feeds))
named = {o.name: v for o, v in zip(session.get_outputs(), outputs)}
numpy.savez(sys.argv[3], version=onnxruntime.__version__, **named)
"""


@pytest.mark.skipif(not RTX.exists(), reason="the container's ONNX Runtime is not installed: make setup-rtx")
def test_the_containers_onnx_runtime_computes_the_same(graph_repository: Path, tmp_path: Path) -> None:
    """Every exported graph in the release that Triton's native backend carries."""
    from ko_asr.export.quantize import quantize_for_cpu

    quantize_for_cpu(graph_repository / tensors.ENCODER / "1" / file_names.GRAPH, tmp_path / "int8.onnx")
    contract = Contract.load(graph_repository / tensors.ENCODER / "1")
    sizes = {"batch": 2, "frames": 200, "padded_samples": contract.padded_samples(200)}
    graphs = [*sorted(graph_repository.glob("*/1/*.onnx")), tmp_path / "int8.onnx"]
    assert len(graphs) == 5
    for graph in graphs:
        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        rng, feeds = np.random.default_rng(0), {}
        for put in session.get_inputs():  # the audio or the features come first, whose last axis is full
            shape = [sizes.get(size, size) for size in put.shape]
            if put.type == "tensor(float)":
                feeds[put.name] = rng.standard_normal(shape).astype(np.float32)
            else:
                full = next(iter(feeds.values())).shape[-1] if put.name in ("length", "samples") else 0
                feeds[put.name] = np.full(shape, full, np.int64)
        ours = dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))
        np.savez(tmp_path / "feeds.npz", **feeds)
        command = [RTX, "-c", RUN_GRAPH, graph, tmp_path / "feeds.npz", tmp_path / "outputs.npz"]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, (graph, done.stderr[-2000:])
        with np.load(tmp_path / "outputs.npz") as theirs:
            assert str(theirs["version"]) == pins("requirements-rtx.txt")["onnxruntime"]
            if graph.name == "int8.onnx":  # rounds elsewhere in each release, and noise has no clear tokens
                assert np.mean(theirs[tensors.TOKEN_IDS][..., 0] == ours[tensors.TOKEN_IDS][..., 0]) >= 0.9
                continue
            for name, value in ours.items():
                message = f"{graph}: {name}"
                np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=1e-3, err_msg=message)


def test_every_stage_copies_what_exists_and_runs_as_a_user() -> None:
    assert list(STAGES) == ["train", "export", "serve"]
    for stage in STAGES.values():
        assert stage["USER"] == ["1000"]
        for copy in stage["COPY"]:
            assert all((ROOT / source).exists() for source in copy.split()[:-1]), copy
    assert in_image("export", "export/to_triton.py") and in_image("train", "recipes/train_ctc.py")
    library = ("src/ko_asr/export/streaming/plan.py", "src/ko_asr/serving/health.py")
    for path in (*library, *(f"export/{name}.py" for name in ("build_plan", "closed_server", "healthcheck"))):
        assert in_image("serve", path), path
    assert not in_image("serve", "export/to_triton.py")
    assert STAGES["export"]["ENTRYPOINT"] == ['["python", "export/to_triton.py"]']


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_agrees_with_its_stage(name: str) -> None:
    service = SERVICES[name]
    stage = STAGES[service["build"]["target"]]
    assert service["image"] == f"ko-asr:{service['build']['target']}"
    assert service["user"].startswith("${KO_ASR_USER:-1000:")
    for mount in service["volumes"]:
        host, inside, *_ = mount.split(":")
        mounted = f"/opt/ko-asr/{host.removeprefix('./')}" if inside != "/models" else inside
        assert inside == mounted and host.startswith("./")
        command = ["git", "check-ignore", "-q", f"{host}/1/" if host == "./triton" else f"{host}/"]
        assert (ROOT / host).is_dir() or subprocess.run(command, cwd=ROOT).returncode == 0, host
    for word in service.get("command", []):
        assert not word.endswith(".py") or in_image(service["build"]["target"], word)
    packages = service.get("environment", {}).get("PYTHONPATH")
    assert packages is None or f"--target {Path(packages).name}" in stage["RUN"][0]


@pytest.mark.parametrize("name", ["serve", "serve-gpu"])
def test_the_served_repository_is_read_only_and_its_health_an_inference(name: str) -> None:
    service, stage = SERVICES[name], STAGES["serve"]
    assert service["volumes"] == ["./triton:/models:ro"]
    (command,) = stage["CMD"]
    assert '"--model-repository=/models"' in command and "command" not in service
    exit_timeout = re.search(r"--exit-timeout-secs=(\d+)", command)
    assert exit_timeout and int(service["stop_grace_period"].removesuffix("s")) > int(exit_timeout[1])
    ports = [port.rsplit(":", 2)[1:] for port in service["ports"]]
    assert ports == [[port, port] for port in stage["EXPOSE"][0].split()]
    check = service["healthcheck"]
    assert check["test"][:3] == ["CMD", "python3", f"{stage['WORKDIR'][0]}/export/healthcheck.py"]
    assert f'CMD ["python3", "{check["test"][2]}"]' in stage["HEALTHCHECK"][0]
    for key in ("interval", "timeout", "retries"):
        assert f"--{key}={check[key]} " in stage["HEALTHCHECK"][0]
    noticed = check["retries"] * int(check["interval"].removesuffix("s"))
    assert noticed <= 10  # seconds until Docker calls a server with a dead model unhealthy


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_can_do_no_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True and service["tmpfs"] == ["/tmp"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc"} & set(service)


def test_the_serve_stage_is_as_closed_as_make_serve(tmp_path: Path) -> None:
    """Its command, run with a script in tritonserver's place that shows what it is given."""
    command = json.loads(STAGES["serve"]["CMD"][0])
    assert command[:3] == ["python3", "/opt/ko-asr/export/closed_server.py", "tritonserver"]
    shown = tmp_path / "tritonserver"
    shown.write_text('#!/bin/sh\nprintf "%s\\n" "$$" "$@"\n', encoding="utf-8")
    shown.chmod(0o755)
    script = str(ROOT / "export" / "closed_server.py")
    line = [sys.executable, "-I", "-S", script, str(shown), *command[3:]]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, encoding="utf-8")
    pid, *given = process.communicate(timeout=20)[0].split()
    assert int(pid) == process.pid  # signals reach tritonserver itself
    assert given[: len(command[3:])] == command[3:] and "--http-address=127.0.0.1" in given
    without_keys = [option.rpartition("=")[0] for option in given]
    added = [option.rpartition("=")[0] for option in closed_to_clients([])[1:]]
    assert without_keys[len(command[3:]) :] == added and len(added) == len(RESTRICTING_OPTIONS)
    assert all(f"{','.join(RESTRICTED)}:" in option for option in added)


def test_the_plan_is_built_before_it_is_served() -> None:
    assert SERVICES["serve-gpu"]["depends_on"] == {"plan": {"condition": "service_completed_successfully"}}
    for name in ("plan", "serve-gpu"):
        (device,) = SERVICES[name]["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert SERVICES["plan"]["volumes"] == ["./triton:/models"]
    assert "deploy" not in SERVICES["serve"]


def test_what_git_ignores_stays_out_of_the_images() -> None:
    ignored = {line.removeprefix("**/") for line in lines(".dockerignore")}
    wanted = {line.strip("/") for line in lines(".gitignore") if "tokenizers" not in line}
    assert wanted <= ignored
    assert {"tokenizers/*/*", "!tokenizers/jamo/*"} <= ignored


def build_plan(repository: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "export" / "build_plan.py"), "--if-needed", "--repository"]
    return subprocess.run([*command, str(repository)], capture_output=True, encoding="utf-8")


def test_a_plan_is_built_only_where_one_is_needed(demo, tmp_path: Path) -> None:
    done = build_plan(demo.repository)
    assert done.returncode == 0 and "exported for onnx" in done.stdout, done.stderr
    (tmp_path / "asr_streaming").mkdir()
    done = build_plan(tmp_path)
    assert done.returncode == 0 and "it holds no encoder" in done.stdout, done.stderr
    assert build_plan(tmp_path / "absent").returncode == 2
    folder = tmp_path / tensors.ENCODER / "1"
    folder.mkdir(parents=True)
    contract = replace(Contract.load(demo.repository / tensors.ENCODER / "1"), target="tensorrt")
    (folder / file_names.CONTRACT).write_text(contract.dump(), encoding="utf-8")
    version, capability = library_version() or "10.13.3", compute_capability() or "8.6"
    record = PlanRecord(contract.onnx_sha256, version, "a GPU", capability, 0.0)
    save_plan(folder, b"plan", record)
    done = build_plan(tmp_path)
    assert done.returncode == 0 and "fits this machine" in done.stdout, done.stderr
    save_plan(folder, b"plan", replace(record, onnx_sha256="0" * 64))
    done = build_plan(tmp_path)  # stale, so it begins to build: this repository has no graph
    assert done.returncode == 2 and "is not the graph of its contract" in done.stderr


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="/dev/shm is no mount here")
def test_a_mounted_repository_is_filled_on_its_own_disk() -> None:
    """The export service mounts triton/: a rename from beside it would cross disks."""
    with staging(Path("/dev/shm")) as stage:
        assert stage.parent == Path("/dev/shm")
    assert not stage.exists()


def healthcheck(url: str, *arguments: str) -> tuple[int, str]:
    """Status and output of the check, run by a Python that finds the standard library only."""
    command = [
        sys.executable,
        "-I",
        "-S",
        str(ROOT / "export" / "healthcheck.py"),
        "--url",
        url,
        "--timeout",
        "8",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, encoding="utf-8", timeout=20)
    assert done.stderr == ""
    return done.returncode, done.stdout.strip()


def processes(parent: int, model: str) -> list[int]:
    """The processes of a Python model."""
    found = [process.pid for process in process_tree(parent) if process.state != "Z"]
    return [pid for pid in found if f"/{model}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]


def occupy_stream(url: str, samples: int) -> str:
    """Begin a stream of asr_streaming with ``samples`` of silence, leave it open; the refusal, if any."""
    audio = triton.InferInput(tensors.AUDIO, [1, samples], "FP32")
    audio.set_data_from_numpy(np.zeros((1, samples), np.float32))
    sequence = secrets.randbelow(2**62) + 1
    with triton.InferenceServerClient(url) as client:
        try:
            client.infer("asr_streaming", [audio], sequence_id=sequence, sequence_start=True)
        except triton.InferenceServerException as error:
            return str(error)
    return ""


def test_a_dead_model_is_noticed_and_the_server_ended(demo, streaming_repository, tmp_path: Path) -> None:
    """Offline and streaming in one server: alive; full and alive; its streaming decoder killed; ended."""
    repository = tmp_path / "triton"
    for source in (demo.repository, streaming_repository):
        shutil.copytree(source, repository, dirs_exist_ok=True)
    config = repository / "asr_streaming_preprocessor" / "config.pbtxt"
    one_stream = re.sub(
        r'("max_streams"\s+value \{\s+string_value: )"\d+"', r'\1"1"', config.read_text("utf-8")
    )
    config.write_text(one_stream, encoding="utf-8")
    with TritonServer(repository, demo.server) as server:
        status, output = healthcheck(server.http_url)
        assert (status, output) == (0, f"{server.http_url} is alive: asr, asr_streaming, asr_streaming_1")
        samples = StreamingContract.load(repository / "asr_streaming" / "1").shift_samples
        assert occupy_stream(server.url, samples) == ""
        assert failure.is_full(occupy_stream(server.url, samples))
        assert healthcheck(server.http_url) == (0, output)
        assert server.process is not None
        os.kill(processes(server.process.pid, "asr_streaming_decoder")[0], signal.SIGKILL)
        started = time.monotonic()
        status, output = healthcheck(server.http_url, "--stop", str(server.process.pid))
        assert status == 1 and "has lost a model: a model's process" in output, output
        assert time.monotonic() - started < 10
        server.process.wait(15)
        status, output = healthcheck(server.http_url)
        assert status == 1 and "is not ready" in output


@pytest.mark.parametrize(
    "address, stopped, died",
    [("127.0.0.1", "is stopped", "has died"), ("127.0.0.2", "is not healthy", "is not healthy")],
)
def test_half_a_model_is_dead_to_every_check(demo, address: str, stopped: str, died: str) -> None:
    """By its processes where it listens at the usual address, and else, as from afar, by its answers."""
    with TritonServer(demo.repository, demo.server, [f"--http-address={address}"]) as server:
        assert server.process is not None
        url = server.http_url.replace("127.0.0.1", address)
        assert healthcheck(url)[0] == 0
        victim, _ = processes(server.process.pid, "asr_encoder")
        os.kill(victim, signal.SIGSTOP)
        said = [healthcheck(url)]
        os.kill(victim, signal.SIGKILL)
        said += [healthcheck(url) for _ in range(6)]
        assert {status for status, _ in said} == {1}, said
        assert stopped in said[0][1] and all(died in output for _, output in said[1:]), said


def test_a_busy_server_is_healthy(demo) -> None:
    with TritonServer(demo.repository, demo.server) as server:
        # Shorter than what an encoder answers in the background, behind the check's own second.
        samples = np.random.default_rng(0).normal(0, 0.1, (1, 16_000 * 14)).astype(np.float32)
        audio = triton.InferInput(tensors.AUDIO, list(samples.shape), "FP32")
        audio.set_data_from_numpy(samples)

        def ask(_: int) -> None:
            with triton.InferenceServerClient(server.url) as client:
                client.infer("asr", [audio], client_timeout=120)

        with ThreadPoolExecutor(64) as pool:
            load = [pool.submit(ask, number) for number in range(192)]
            time.sleep(1.0)
            said = {healthcheck(server.http_url, "--timeout", "1.3")}
            while not all(asked.done() for asked in load):
                said.add(healthcheck(server.http_url, "--timeout", "1.3"))
            assert [asked.result() for asked in load] and {status for status, _ in said} == {0}, said
        assert f"{server.http_url} is busy" in {output for _, output in said}


def test_the_serve_stage_sets_what_the_servers_own_launcher_sets() -> None:
    given = dict(pair.split("=") for line in STAGES["serve"]["ENV"] for pair in line.split())
    assert given.items() >= PROCESS_SETTINGS.items()


GATEWAY = ROOT / ".gateway/bin/python"


@pytest.mark.skipif(not GATEWAY.exists(), reason="no .gateway: make setup-gateway")
def test_the_gateway_stage_wants_keys_and_is_healthy_while_triton_answers(demo, tmp_path: Path) -> None:
    """Its command and its health check as they are, but for this machine's address, port and Triton."""
    stage, port = STAGES["gateway"], free_ports(1)[0]
    aliases = SERVICES["serve"]["networks"]["default"]["aliases"]
    given = [word.replace(f"{aliases[0]}:8001", demo.url) for word in json.loads(stage["CMD"][0])]
    assert given[-1] == demo.url and "--keys" in given
    environment = dict(pair.split("=") for line in stage["ENV"] for pair in line.split())
    state = SERVICES["gateway"]["volumes"][0].split(":")[1]
    assert environment["XDG_DATA_HOME"] == environment["TMPDIR"] == state
    kept = {"XDG_DATA_HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [*DYING_WITH_PARENT, str(GATEWAY), *given[1:], "--port", str(port)]
    check = json.loads(stage["HEALTHCHECK"][0].partition(" CMD ")[2])

    def healthy() -> bool:
        line = [word.replace("9000", str(port)) for word in check[1:]]
        return subprocess.run([GATEWAY, *line], capture_output=True).returncode == 0

    with subprocess.Popen(command, env=os.environ | kept, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not healthy():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models")
        assert (tmp_path / "ko-asr-gateway/gateway.db").is_file()
        process.terminate()
    assert not healthy()
