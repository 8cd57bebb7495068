"""This project's scripts as `python SCRIPT ...` runs them, without importing anew what all of them import.

NeMo takes ten seconds of a core, the rest one. So each command is a fork of one process that has done that
(`warm_nemo.py`; `warm.py` where no slow test was chosen) and nothing else: arguments, folder, environment,
output and exit status are the command's own. What needs an interpreter of its own (kills, limits, torchrun,
variables read at import) starts one: the demo and the tests of training, serving and scaling do.
"""

import contextlib
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["warm_nemo"])


def leave_nemo_out() -> None:
    """Let all commands of this process be forks of one that has not imported NeMo."""
    _CONTEXT.set_forkserver_preload(["warm"])


def run(*command: object, cwd: Path = ROOT, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """Run a script, a path from ``ROOT`` or a whole one, with its arguments; TimeoutExpired in seconds."""
    _start()
    script, *arguments = map(str, command)
    line = [str(ROOT / script), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        process = _CONTEXT.Process(target=_child, args=(line, str(cwd), dict(os.environ), streams))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(line, timeout)
        texts = [path.read_text(encoding="utf-8") for path in streams]
    return subprocess.CompletedProcess(line, process.exitcode, *texts)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a command that refused has said on standard error."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1, done
    assert lines[0].startswith("error: ")
    return lines[0]


def _start() -> None:
    """Start the process that is forked, where neither triton/ nor tokenizers/ of this folder shadows."""
    tests = str(Path(__file__).parent)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = tests  # for warm.py and warm_nemo.py
    try:
        with contextlib.chdir("/"):
            forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


def _child(line: list[str], cwd: str, environment: dict[str, str], streams: list[Path]) -> None:
    """In the fork: become the command ``line``, its standard output and error in the files ``streams``."""
    for number, path in enumerate([Path(os.devnull), *streams]):
        handle = os.open(path, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(handle, number)
        os.close(handle)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    warnings.resetwarnings()  # what warm_nemo.py turned off, a script must turn off itself
    warnings.filterwarnings("error", module="ko_asr")
    logging.disable(logging.NOTSET)
    sys.argv[:] = line
    sys.path.insert(0, str(Path(line[0]).parent))
    if "warm" not in sys.modules:
        raise RuntimeError("warm.py was not imported: its process has said why")
    runpy.run_path(line[0], run_name="__main__")
