"""Normalisers of spoken text under one interface: lines in, written lines out, in this process or another."""

import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from ko_asr.errors import UserError
from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions

Normaliser = Callable[[list[str]], list[str]]
RULES, NEMO = "rules", "nemo"


def normaliser(name: str, style: Mapping[str, str], root: Path) -> Normaliser:
    """Return this project's rules in a style, NVIDIA's normaliser, or a command that answers line by line.

    ``root`` is the checkout, below which `make setup-nemo-itn` puts NVIDIA's environment. UserError for a
    style that does not exist and for an environment that is not there.
    """
    if name == RULES:
        finish = Finisher(FinishOptions(style=dict(style)))
        return lambda lines: [finish(line).text for line in lines]
    if name != NEMO:
        command = _command(name)
        return lambda lines: _answers(command, lines)
    python = root / ".nemo-itn" / "bin" / "python"
    if not python.is_file():
        raise UserError(
            f"no {python}: run `make setup-nemo-itn`, which installs NVIDIA's normaliser (1.1 GB)"
        )
    return lambda lines: _answers([str(python), str(root / "recipes" / "nemo_itn.py")], lines)


def _command(text: str) -> list[str]:
    try:
        command = shlex.split(text)
    except ValueError as error:
        raise UserError(f"the normaliser {text!r:.60} is no command: {error}") from error
    if not command:
        raise UserError(f"the normaliser {text!r} is no command: say {RULES}, {NEMO} or what to run")
    return command


def _answers(command: list[str], lines: list[str]) -> list[str]:
    """What ``command`` writes for ``lines``. UserError unless it is a line for each."""
    name = Path(command[0]).name
    asked = "".join(f"{line}\n" for line in lines).encode()
    try:
        done = subprocess.run(command, input=asked, capture_output=True, check=False)
    except OSError as error:
        raise UserError(f"the normaliser {command[0]} does not start: {error.strerror}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        reason = said.removeprefix("error: ") or "no message"
        raise UserError(f"the normaliser {name} failed ({done.returncode}): {reason}")
    written = done.stdout.decode(errors="replace").splitlines()
    if len(written) != len(lines):
        raise UserError(
            f"the normaliser {name} wrote {len(written)} lines for {len(lines)}: it must write one for each"
        )
    return written
