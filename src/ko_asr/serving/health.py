"""Whether a Triton server lives: its processes, its answers to probes, the progress of its work.

Busy is not dead: a server that answers late, or says that it is full, goes on with what it has accepted.
Dead is what answers with failures, what refuses connections, and what neither answers nor works. Half dead is
dead: of a model's processes one that was killed or stopped fails its share of the requests for ever, because
Triton never starts it again and stays "ready".

Standard library only, because `export/healthcheck.py` runs this inside NVIDIA's container. Processes are read
from /proc, so this is for Linux.
"""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

UNHEALTHY = "is not healthy"  # Triton's answer for a model's process that was killed or stopped
_MODEL_PROCESS = "triton_python_backend_stub"[:15]  # Linux keeps 15 characters of a name, a zombie's too
_TICKS = os.sysconf("SC_CLK_TCK")
# Of a core. A server without requests takes 0.002, one at work 1 or more, or less where others compute, too.
_WORKING_SHARE = 0.1
_CPU_INTERVAL = 1.0  # seconds; /proc counts in hundredths of one
STALL_SECONDS = 30.0  # neither answers nor computes: no inference waits so long for a disk or a GPU
# Computes without an answer: the largest batch of the longest recordings, with a large model on few cores.
SPIN_SECONDS = 600.0
_RECENT, _FAILURES = 5, 2  # so many failures among so many answers: one alone may be one request's bad luck


@dataclass(frozen=True)
class Process:
    """One process as /proc shows it; ``state`` is R, S, D, Z (ended), T (stopped) ..."""

    pid: int
    parent: int
    name: str
    state: str
    cpu_seconds: float


def _read_process(pid: int) -> Process:
    head, _, rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")
    fields = rest.split()
    ticks = int(fields[11]) + int(fields[12])
    return Process(pid, int(fields[1]), head.partition("(")[2], fields[0], ticks / _TICKS)


def _children(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended meanwhile
            yield from map(int, task.read_text(encoding="ascii").split())


def process_tree(root: int) -> list[Process]:
    """The process ``root`` and all that descend from it, which are none once it has ended and was reaped."""
    found, pids = [], [root]
    for pid in pids:  # grows while it is read
        with contextlib.suppress(OSError, IndexError, ValueError):  # it has ended meanwhile
            found.append(_read_process(pid))
            pids += _children(pid)
    return found


def cpu_seconds(tree: list[Process]) -> float:
    """What the processes have computed so far."""
    return sum(process.cpu_seconds for process in tree)


def computes(cpu: float, elapsed: float) -> bool:
    """Whether a server that took ``cpu`` seconds of a core in ``elapsed`` seconds is at work."""
    return cpu > _WORKING_SHARE * elapsed


def broken_process(tree: list[Process]) -> str | None:
    """A sentence about a process of a server that does not run any more, or None.

    Triton does not reap a model's process that was killed, so it stays as a zombie.
    """
    for process in tree:
        who = "a model's process" if process.name == _MODEL_PROCESS else "the server's process"
        if process.state == "T":
            return f"{who} ({process.pid}) is stopped"
        if process.state == "Z" and process.name == _MODEL_PROCESS:
            return f"{who} ({process.pid}) has died"
    return None


def server_at(port: int) -> int | None:
    """The process id of the Triton server with Python models that listens on TCP ``port`` here; else None.

    None also for another user's server, whose sockets cannot be seen.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    for owner in _owners_of_models() if sockets else ():
        with contextlib.suppress(OSError):
            if any(os.readlink(descriptor) in sockets for descriptor in Path(f"/proc/{owner}/fd").iterdir()):
                return owner
    return None


def _owners_of_models() -> set[int]:
    owners = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError, IndexError, ValueError):
            process = _read_process(int(entry))
            if process.name == _MODEL_PROCESS:
                owners.add(process.parent)
    return owners


def _listening(port: int) -> Iterator[str]:
    """The inodes of the sockets that listen on ``port``."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "0A":
                yield fields[9]


class Answer(Enum):
    """The outcome of one probe, an inference that costs a server next to nothing."""

    ANSWERED = "answered"  # or said that it is full
    FAILED = "failed"
    REFUSED = "refused"  # no connection
    SILENT = "silent"  # not answered in time


@dataclass(frozen=True)
class Probe:
    """The outcome of one probe, and what the server said where it failed."""

    answer: Answer
    sentence: str = ""


@dataclass(frozen=True)
class Look:
    """What was seen of one ensemble at ``time`` (of time.monotonic)."""

    time: float
    probes: tuple[Probe, ...]  # that have ended since the look before
    answered: int | None  # requests that the ensemble has answered so far; None where that is unknown
    cpu_seconds: float  # of all of the server's processes so far


class Judge:
    """Decides from looks at one ensemble of a server whether it lives."""

    def __init__(self, time: float, stall: float = STALL_SECONDS, spin: float = SPIN_SECONDS) -> None:
        """Begin at ``time``; a server is dead that ``stall`` s long does nothing, or ``spin`` s in vain."""
        self._stall, self._spin = stall, spin
        self._recent: deque[Probe] = deque(maxlen=_RECENT)
        self._answered = -1
        self._cpu, self._measured = 0.0, time
        self._progress = self._success = time

    def dead(self, look: Look) -> str | None:
        """A sentence that says why the server is dead, or None while it lives."""
        self._take(look)
        failed = [probe for probe in self._recent if probe.answer in (Answer.FAILED, Answer.REFUSED)]
        if len(failed) >= _FAILURES:
            return f"an inference {failed[-1].answer.value}: {failed[-1].sentence or 'no reason given'}"
        if look.time - self._progress >= self._stall:
            return f"nothing was answered or computed for {self._stall:g} s"
        if look.time - self._success >= self._spin:
            return f"nothing was answered for {self._spin:g} s"
        return None

    def _take(self, look: Look) -> None:
        self._recent.extend(probe for probe in look.probes if probe.answer is not Answer.SILENT)
        more = look.answered is not None and look.answered > self._answered
        if more or any(probe.answer is not Answer.SILENT for probe in look.probes):
            self._success = self._progress = look.time
        self._answered = self._answered if look.answered is None else look.answered
        if (elapsed := look.time - self._measured) >= _CPU_INTERVAL:
            if computes(look.cpu_seconds - self._cpu, elapsed):
                self._progress = look.time
            self._cpu, self._measured = look.cpu_seconds, look.time


class Pauses:
    """Seconds to wait before each restart: ``first``, twice as long each time, at most ``longest``.

    From ``first`` again after a server that answered for ``longest`` seconds.
    """

    def __init__(self, first: float = 1.0, longest: float = 60.0) -> None:
        self._first, self._longest = first, longest
        self._next = first

    def after(self, served: float) -> float:
        """The pause after a server that answered for ``served`` seconds."""
        if served >= self._longest:
            self._next = self._first
        pause = self._next
        self._next = min(2 * pause, self._longest)
        return pause
