"""CPU time of processes and their children, for benchmarks whose work is spread over several."""

import os
from collections.abc import Iterable
from pathlib import Path

_CLOCK = os.sysconf("SC_CLK_TCK")


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return user and system seconds so far of ``processes`` (their ids) and their living children."""
    total = 0.0
    for process in processes:
        for task in Path(f"/proc/{process}/task").glob("*/children"):
            total += cpu_seconds(int(child) for child in task.read_text(encoding="utf-8").split())
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / _CLOCK
    return total
