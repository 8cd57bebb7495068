"""Python started in the checkout: its folder triton/ is no package, the installed one is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def started_here(code: str, **environment: str) -> str:
    """Run ``code`` as `python -c` in the checkout does and return the last line printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_model_repository_is_no_package() -> None:
    found = "import importlib.util as u; print(u.find_spec('triton'), u.find_spec('tests') is not None)"
    assert started_here(found) == "None True"


def test_an_installed_package_is_found_behind_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("from triton import language", encoding="utf-8")
    (tmp_path / "triton" / "language.py").write_text("name = 'real'", encoding="utf-8")
    code = "import triton.language; print(triton.language.name, triton.__file__)"
    assert started_here(code, PYTHONPATH=str(tmp_path)) == f"real {tmp_path}/triton/__init__.py"


@pytest.mark.slow
def test_stock_nemo_is_importable() -> None:
    code = "from nemo.collections.asr.models import ASRModel; print(ASRModel.__name__)"
    assert started_here(code) == "ASRModel"
