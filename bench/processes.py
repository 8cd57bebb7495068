"""CPU time and memory of processes and their children, for benchmarks whose work is spread over several."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_CLOCK = os.sysconf("SC_CLK_TCK")


def family(processes: Iterable[int]) -> Iterator[int]:
    """``processes`` (their ids) and their living children, and theirs."""
    for process in processes:
        yield process
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            yield from family(int(child) for child in task.read_text(encoding="utf-8").split())


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return user and system seconds so far of ``processes`` and their living children."""
    total = 0.0
    for process in family(processes):
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _CLOCK
    return total


def memory_megabytes(processes: Iterable[int]) -> float:
    """Return the resident memory of ``processes`` and their living children; what they share counts once."""
    total = 0
    for process in family(processes):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024
