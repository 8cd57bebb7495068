"""Every Python model folder by itself: what it imports is there, in the server's own Python."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving import offline, streaming

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "export" / "models"
SERVER_PYTHON = ROOT / ".server" / "venv" / "bin" / "python"
COMMON: dict[str, Any] = {
    **dict.fromkeys(("export_id", "model", "model_sha256", "onnx_sha256"), ""),
    "vocabulary": {"pieces": ["<unk>", "▁가"], "unknown_id": 0, "silent": [], "rule": "identity"},
    **{"blank_id": 2, "mels": 80, "sample_rate": 16_000, "hop": 160, "subsampling": 8},
}

# Imports one model folder where only it, the standard library, numpy and scipy can be reached. Prints what
# the first line, "import ko_asr", has loaded.
IMPORT_ALONE = """
import importlib.abc, json, sys, types

class OnlyTheFloor(importlib.abc.MetaPathFinder):
    allowed = {*sys.stdlib_module_names, "ko_asr", "model", "numpy", "scipy"}

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"{name} is out of reach in a model folder", name=name)

folder = sys.argv[1]
# As Triton's: TritonError, Tensor and the rest come after the import of model.py.
stand_in = types.ModuleType("triton_python_backend_utils")
stand_in.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START, stand_in.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END = 1, 2
sys.modules["triton_python_backend_utils"] = stand_in
sys.meta_path.insert(0, OnlyTheFloor())
sys.path.insert(0, folder)
before = set(sys.modules)
import ko_asr
loaded = sorted(set(sys.modules) - before)
import model
assert callable(model.TritonPythonModel.initialize) and callable(model.TritonPythonModel.execute)
import pkgutil, ko_asr.finishing, ko_asr.runtime
for package in (ko_asr.runtime, ko_asr.finishing):
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        __import__(module.name)
from ko_asr.finishing.finisher import finish
from ko_asr.finishing.options import FinishOptions
everything = FinishOptions(True, True, "sure", True, True, True, paragraph_splitter=True, analyzer="rules")
assert finish("만 오천 원", everything).text == "15,000원."
homes = {m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] in ("ko_asr", "model")}
assert all(home.startswith(folder) for home in homes), homes
print(json.dumps(loaded))
"""


def build_offline(stage: Path, front_end: str) -> list[str]:
    sizes = {"min_samples": 400, "max_samples": 160_000, "bucket_frames": [1000], "max_batch_size": 8}
    contract = Contract(**COMMON, **sizes, front_end=front_end)
    offline.write_models(stage, contract, offline.Serving(), TEMPLATES, {})
    return [tensors.PREPROCESSOR, tensors.DECODER]


def build_streaming(stage: Path, front_end: str) -> list[str]:
    sizes = {"window_samples": 400, "left": 70, "top_k": 8, "layers": 1, "d_model": 8, "kernel": 9}
    contract = StreamingContract(**COMMON, **sizes, look_ahead=1, look_aheads=[6, 1], front_end=front_end)
    exported = stage / "exported"
    exported.mkdir(parents=True)
    (exported / file_names.STREAM_CONTRACT).write_text(contract.dump(), encoding="utf-8")
    for name in (file_names.GRAPH, file_names.LOG_MEL, file_names.LOG_MEL_GRAPH):
        (exported / name).touch()
    streaming.write_stream_models(stage, exported, 6, streaming.StreamServing(), TEMPLATES)
    return [f"{tensors.STREAM_PREPROCESSOR}_1", f"{tensors.STREAM_DECODER}_1"]


@pytest.mark.parametrize("front_end", ["numpy", "graph"])
@pytest.mark.parametrize("build", [build_offline, build_streaming])
def test_a_model_folder_needs_numpy_only(
    build: Callable[[Path, str], list[str]], front_end: str, tmp_path: Path
) -> None:
    if not SERVER_PYTHON.exists():
        pytest.skip("no server's Python: make setup-server installs it")
    for model in build(tmp_path, front_end):
        folder = tmp_path / model / "1"
        command = [SERVER_PYTHON, "-I", "-c", IMPORT_ALONE, str(folder)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, f"{model}: {done.stderr}"
        loaded = json.loads(done.stdout)
        assert "ko_asr" in loaded, "the copied package was imported"
        assert not [name for name in loaded if name.startswith(("ko_asr.", "numpy", "scipy"))], loaded


def test_a_folder_that_needs_more_is_found_out(tmp_path: Path) -> None:
    if not SERVER_PYTHON.exists():
        pytest.skip("no server's Python: make setup-server installs it")
    model, _ = build_offline(tmp_path, "numpy")
    source = tmp_path / model / "1" / "ko_asr" / "runtime" / "ctc.py"
    source.write_text(f"import onnxruntime\n{source.read_text(encoding='utf-8')}", encoding="utf-8")
    command = [SERVER_PYTHON, "-I", "-c", IMPORT_ALONE, str(source.parents[2])]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1 and "onnxruntime is out of reach in a model folder" in done.stderr
