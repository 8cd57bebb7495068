"""The tables and rules beside this module: YAML as people write it, JSON in a model folder."""

import functools
import json
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError

FOLDER = Path(__file__).parent


@functools.cache
def load(name: str) -> Any:
    """Return what ``name``.yaml holds. UserError with file and line where it is not YAML in UTF-8."""
    compiled = FOLDER / f"{name}.json"
    if compiled.is_file():
        return json.loads(compiled.read_text(encoding="utf-8"))
    return read_yaml(FOLDER / f"{name}.yaml")


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds. UserError with file and line where it is not YAML in UTF-8."""
    import yaml

    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not YAML in UTF-8 ({getattr(error, 'problem', error)})") from error


def compile_into(folder: Path) -> None:
    """Put JSON in the place of every YAML file of ``folder``, a copy of this one."""
    for path in folder.glob("*.yaml"):
        compiled = json.dumps(read_yaml(path), ensure_ascii=False)
        path.with_suffix(".json").write_text(compiled, encoding="utf-8")
        path.unlink()
