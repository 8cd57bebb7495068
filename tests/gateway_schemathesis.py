"""schemathesis, as a program, on a gateway: the same tries each time."""

import subprocess
import sys
from pathlib import Path

from gateway_process import GatewayProcess

_PROGRAM = Path(sys.executable).with_name("schemathesis")


def schemathesis(gateway: GatewayProcess, folder: Path, *checks: str, key: str | None = None) -> None:
    """Let it try what /openapi.json says, with a key only shortly; it must find nothing by ``checks``."""
    command = [_PROGRAM, "run", f"{gateway.url}/openapi.json", "--checks", ",".join(checks), "--no-color"]
    bounds = ["--seed", "1", "--max-examples", "2" if key else "15", "--generation-database", "none"]
    phases = ["--phases", "fuzzing" if key else "coverage,fuzzing"]
    header = ["--header", f"Authorization: Bearer {key}"] if key else []
    run = subprocess.run(
        [*command, *bounds, *phases, *header], capture_output=True, text=True, timeout=120, cwd=folder
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
