"""Run a real tritonserver, the one that `export/setup_server.py` installed in ``.server/``.

`exec_tritonserver` is what ``.venv/bin/tritonserver`` runs: Triton's own command line with this
installation's folders and local addresses filled in where the user gave none. `TritonServer` starts one
for a test or a benchmark. Neither torch nor NeMo is ever imported here.
"""

import contextlib
import itertools
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ko_asr.errors import UserError, run_main
from ko_asr.runtime import failure, tensors

RECORD = "server.json"  # written last by the set-up: its presence means the installation is whole
_SHM_PREFIX = "ko_asr_triton_"  # + process id + "_": shared memory of a dead server can be told and removed
_SHM_OPTION = "shm-region-prefix-name"
# Runs a command that gets SIGTERM when its parent ends, however that ends (prctl's PR_SET_PDEATHSIG, Linux).
# Not a preexec_fn: it would fork this process with its gRPC threads, whose fork handlers can abort the child.
DYING_WITH_PARENT = (
    sys.executable,
    "-ISXutf8",
    "-c",
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execv(sys.argv[1], sys.argv[1:])",
)
PROCESS_SETTINGS = {  # the Dockerfile's, too
    # A Python model is one process with one core's work: numpy's thread pool would fight the encoder.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # Bytes up to which glibc keeps freed memory: to map and clear each request's pages anew takes longer than
    # to copy them.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
}
_ADDRESS = "127.0.0.1"
_PORTS = {"grpc": 8001, "http": 8000, "metrics": 8002}
REPOSITORY_OPTIONS = ("--model-repository", "--model-store")


@dataclass(frozen=True)
class Installation:
    """The places of one server installation's pieces (absolute paths)."""

    binary: str
    backends: str
    caches: str
    python_bin: str  # its python3 runs the Python models
    library_path: str

    @classmethod
    def load(cls, folder: str | Path) -> "Installation":
        """Read ``folder``/server.json. Raises UserError when the server was never set up there."""
        try:
            data = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"no Triton server in {folder}: install one with python export/setup_server.py"
            ) from error
        return cls(**data["installation"])

    def environment(self) -> dict[str, str]:
        """The process environment: this installation's Python first, and no module path of the caller's."""
        environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        }
        environment["PATH"] = f"{self.python_bin}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        inherited = os.environ.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = self.library_path + (f":{inherited}" if inherited else "")
        return PROCESS_SETTINGS | environment


def option_values(arguments: Sequence[str], name: str) -> list[str]:
    """Values of a command line option given as ``--name value`` or ``--name=value``."""
    values = [a.partition("=")[2] for a in arguments if a.startswith(f"{name}=")]
    values += [value for option, value in itertools.pairwise(arguments) if option == name]
    return values


def with_defaults(arguments: Sequence[str], installation: Installation) -> list[str]:
    """The user's own flags, and ours only where the user gave none."""
    defaults = {
        "--backend-directory": installation.backends,
        "--cache-directory": installation.caches,
        "--grpc-address": _ADDRESS,
        "--http-address": _ADDRESS,
        "--metrics-address": _ADDRESS,
        "--exit-timeout-secs": "10",
    }
    given = [argument.partition("=")[0] for argument in arguments]
    added = [f"{name}={value}" for name, value in defaults.items() if name not in given]
    if not {"--disable-auto-complete-config", "--strict-model-config"} & set(given):
        added.append("--disable-auto-complete-config")  # our configurations are complete: start 1.5 s sooner
    if not any(_SHM_OPTION in argument for argument in arguments):
        added.append(f"--backend-config=python,{_SHM_OPTION}={_SHM_PREFIX}{os.getpid()}_")
    return [*arguments, *added]


def listening_ports(arguments: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Service -> (address, port) that tritonserver will open with ``arguments`` (defaults filled in)."""
    ports = {}
    for service, default in _PORTS.items():
        if option_values(arguments, f"--allow-{service}")[-1:] in (["false"], ["0"]):
            continue
        address = (option_values(arguments, f"--{service}-address") or [_ADDRESS])[-1]
        port = (option_values(arguments, f"--{service}-port") or [str(default)])[-1]
        if port.isdigit():
            ports[service] = (address, int(port))
    return ports


def check_ports(arguments: Sequence[str]) -> None:
    """Raise UserError naming the first port that another process holds."""
    for service, (address, port) in listening_ports(arguments).items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                raise UserError(
                    f"{service} port {port} on {address} cannot be opened ({error.strerror}): "
                    f"stop what uses it, or add --{service}-port N"
                ) from error


def check_repository(arguments: Sequence[str]) -> None:
    """Raise UserError when a repository named on the command line is missing or not whole."""
    for option in REPOSITORY_OPTIONS:
        for value in option_values(arguments, option):
            if "://" in value:  # object storage
                continue
            if not Path(value).is_dir():
                raise UserError(f"no model repository at {value}: fill it with python export/to_triton.py")
            check_path(Path(value), "move the repository, or name it through a link with a plain path")
            if not any(Path(value).glob("*/config.pbtxt")):
                raise UserError(f"{value} holds no filled model: run python export/to_triton.py first")
            if not _chosen_by_user(arguments):
                _check_folders(Path(value))


def check_path(path: Path, remedy: str) -> None:
    """Raise UserError where Triton's Python backend cannot start a model's process.

    It puts the paths into a command line for a shell without quoting them (and then waits for the process
    for ever), and the process encodes them as ASCII, whatever the locale says.
    """
    if shlex.quote(str(path.absolute())) != str(path.absolute()):
        raise UserError(
            f"Triton's Python models do not load from {path.absolute()}: a path of ASCII letters, digits "
            f"and . _ - is needed, without spaces: {remedy}"
        )


def _chosen_by_user(arguments: Sequence[str]) -> bool:
    """True where Triton may load a part of the repository, or complete configurations itself."""
    return any(option_values(arguments, name) for name in ("--model-control-mode", "--strict-model-config"))


def _check_folders(repository: Path) -> None:
    for folder in sorted(repository.iterdir()):
        if folder.is_dir() and not (folder / "config.pbtxt").is_file():
            raise UserError(
                f"{folder} holds no config.pbtxt, and beside it Triton would serve nothing: "
                "remove the folder, or fill it with python export/to_triton.py"
            )


def remove_stale_shared_memory(ended: str | None = None) -> None:
    """Delete /dev/shm regions of servers of ours that were killed, and those that start with ``ended``."""
    for region in Path("/dev/shm").glob(f"{_SHM_PREFIX}*"):
        process = region.name.removeprefix(_SHM_PREFIX).partition("_")[0]
        orphaned = process.isdigit() and not Path(f"/proc/{process}").exists()
        if orphaned or (ended and region.name.startswith(ended)):
            with contextlib.suppress(OSError):
                region.unlink()


def exec_tritonserver(folder: str | Path, arguments: Sequence[str]) -> None:
    """Become tritonserver: this process is replaced, so signals and exit status are Triton's own."""

    def start() -> None:
        installation = Installation.load(folder)
        complete = with_defaults(arguments, installation)
        if not {"--help", "-h", "--version"} & set(arguments):
            check_repository(arguments)
            check_ports(complete)
            remove_stale_shared_memory()
        os.execve(installation.binary, [installation.binary, *complete], installation.environment())

    run_main(start)


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on just now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((_ADDRESS, 0))
        return [one.getsockname()[1] for one in sockets]


class TritonServer:
    """A server on free ports for the length of a ``with`` block; it answers before the block begins.

    ``url`` is its gRPC address, ``metrics_url`` its Prometheus page, ``process`` the child, ``log`` its log
    file. Readiness is an inference of the ensemble when the repository has one, because Triton's ready
    endpoint stays true when a model's process has died. The server ends with the thread that started it,
    however that ends.
    """

    def __init__(
        self,
        repository: str | Path,
        installation: str | Path,
        arguments: Sequence[str] = (),
        timeout: float = 60.0,
    ) -> None:
        self.repository = Path(repository)
        self.timeout = timeout
        self._installation = Installation.load(installation)
        self._arguments = list(arguments)
        self.process: subprocess.Popen | None = None

    def __enter__(self) -> "TritonServer":
        grpc, http, metrics = free_ports(3)
        self.url, self.http_url = f"{_ADDRESS}:{grpc}", f"{_ADDRESS}:{http}"
        self.metrics_url = f"http://{_ADDRESS}:{metrics}/metrics"
        ports = [f"--grpc-port={grpc}", f"--http-port={http}", f"--metrics-port={metrics}"]
        self._shm = f"{_SHM_PREFIX}{os.getpid()}_{grpc}_"
        shared_memory = f"--backend-config=python,{_SHM_OPTION}={self._shm}"
        command = [f"--model-repository={self.repository}", *ports, shared_memory, *self._arguments]
        check_repository(command)
        remove_stale_shared_memory()
        handle, log = tempfile.mkstemp(prefix="tritonserver-", suffix=".log")
        self.log = Path(log)
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                [*DYING_WITH_PARENT, self._installation.binary, *with_defaults(command, self._installation)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=self._installation.environment(),
            )
        try:
            self._wait()
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        remove_stale_shared_memory(ended=self._shm)
        if kind is None:
            self.log.unlink(missing_ok=True)

    def _wait(self) -> None:
        deadline = time.monotonic() + self.timeout
        while not is_alive(self.url, self.repository):
            assert self.process is not None
            if self.process.poll() is not None:
                raise UserError(
                    f"tritonserver ended with status {self.process.returncode}: {self.last_error()}"
                )
            if time.monotonic() > deadline:
                raise UserError(f"tritonserver was not ready in {self.timeout:g} s: {self.last_error()}")
            time.sleep(0.1)

    def last_error(self) -> str:
        """Why a model did not load, or else the last line that names an error; with the log's path."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        causes = [
            line.partition("Error: ")[2] for line in lines if "Failed to initialize Python stub" in line
        ]
        causes += [line for line in lines if "failed to load '" in line]
        causes += [line for line in reversed(lines) if line.startswith(("E", "error"))]
        reason = causes[0].partition("] ")[2] or causes[0] if causes else "no reason given"
        return f"{reason.split(chr(92) + 'n')[0].strip().strip(chr(34))} (log: {self.log})"


def served_ensembles(repository: str | Path) -> list[str]:
    """The ensembles that a repository holds: ``asr``, ``asr_streaming`` and its other look-aheads."""
    found = []
    for path in sorted(Path(repository).glob("*/config.pbtxt")):
        name = path.parent.name
        look_ahead = name.removeprefix(f"{tensors.STREAM_ENSEMBLE}_")
        if name in (tensors.ENSEMBLE, tensors.STREAM_ENSEMBLE) or look_ahead.isdigit():
            found.append(name)
    return found


def probe_request(ensemble: str) -> tuple[list, dict[str, int | bool]]:
    """Inputs and options of tritonclient's ``infer`` for an inference that costs an ensemble little.

    A second of silence; for a streaming ensemble a stream without audio.
    """
    import tritonclient.grpc as triton

    samples, stream = 16_000, {}
    if ensemble != tensors.ENSEMBLE:
        sequence = secrets.randbelow(2**63 - 1) + 1
        samples, stream = 0, {"sequence_id": sequence, "sequence_start": True, "sequence_end": True}
    audio = triton.InferInput(tensors.AUDIO, [1, samples], "FP32")
    audio.set_data_from_numpy(np.zeros((1, samples), np.float32))
    return [audio], stream


def is_alive(url: str, repository: str | Path | None = None) -> bool:
    """True when every ensemble of ``repository`` answers one inference at ``url`` within 30 s.

    Without ``repository`` it is ``asr`` that must answer; a repository without ensembles must be ready.
    """
    import tritonclient.grpc as triton

    ensembles = [tensors.ENSEMBLE] if repository is None else served_ensembles(repository)
    with contextlib.suppress(triton.InferenceServerException), triton.InferenceServerClient(url) as client:
        if not client.is_server_ready(client_timeout=2):
            return False
        for name in ensembles:
            inputs, stream = probe_request(name)
            try:
                client.infer(name, inputs, client_timeout=30, **stream)
            except triton.InferenceServerException as error:
                if not failure.is_full(str(error)):  # a server with no place left answers, so it lives
                    raise
        return True
    return False


if __name__ == "__main__":
    exec_tritonserver(sys.argv[1], sys.argv[2:])
