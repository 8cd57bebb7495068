"""What the offline ensemble's Python steps make of silence, by the contract's silence_dbfs."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ko_asr.errors import UserError
from ko_asr.runtime import tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.silence import SILENCE_DBFS, SILENT_FRAMES
from ko_asr.serving import offline

TEMPLATES = Path(__file__).resolve().parents[2] / "export" / "models"
CONTRACT = Contract(
    **dict.fromkeys(("export_id", "model", "model_sha256", "onnx_sha256"), ""),
    vocabulary={"pieces": ["<unk>", "▁가"], "unknown_id": 0, "silent": [], "rule": "identity"},
    **{"blank_id": 2, "mels": 80, "sample_rate": 16_000, "hop": 160, "subsampling": 8},
    **{"min_samples": 400, "max_samples": 160_000, "bucket_frames": [1000], "max_batch_size": 8},
    front_end="graph",
    silence_dbfs=SILENCE_DBFS,
)


class Request:
    def __init__(self, **arrays: np.ndarray) -> None:
        self.arrays = arrays

    def requested_output_names(self) -> list[str]:
        return [tensors.TEXT, tensors.CONFIDENCE, tensors.WORDS]


def backend() -> ModuleType:
    """As much of Triton's Python backend as the two steps use."""
    module = ModuleType("triton_python_backend_utils")
    found: Any = module
    found.get_input_tensor_by_name = lambda request, name: (
        SimpleNamespace(as_numpy=lambda: request.arrays[name]) if name in request.arrays else None
    )
    found.Tensor = lambda name, array: (name, array)
    found.InferenceResponse = dict
    return module


def step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model of a folder, initialised."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend())
    specification = importlib.util.spec_from_file_location(f"{folder.name}_model", folder / "1" / "model.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    model = module.TritonPythonModel()
    arguments = {"model_repository": str(folder), "model_version": "1", "model_name": folder.name}
    model.initialize(arguments)
    return model


@pytest.mark.parametrize(("limit", "gated"), [(SILENCE_DBFS, True), (None, False)])
def test_silence_leaves_the_front_end_with_a_length_that_no_audio_has(
    limit: float | None, gated: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract = replace(CONTRACT, silence_dbfs=limit)
    offline.write_models(tmp_path, contract, offline.Serving(), TEMPLATES, {})
    model = step(tmp_path / tensors.PREPROCESSOR, monkeypatch)
    audio = np.zeros((2, 16_000), np.float32)
    audio[1, 8000:9000] = 0.005
    audio[1, 8100:8500] *= -1  # -46 dBFS
    outputs = model.front_end(audio)
    assert outputs[tensors.SAMPLES][:, 0].tolist() == [SILENT_FRAMES * 160 if gated else 16_000, 16_000]
    assert np.array_equal(outputs[tensors.PADDED_AUDIO][:, :16_000], audio)


def test_the_decoder_answers_silence_with_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offline.write_models(tmp_path, CONTRACT, offline.Serving(), TEMPLATES, {})
    model = step(tmp_path / tensors.DECODER, monkeypatch)
    request = Request(
        token_ids=np.array([[[1], [2], [2]]] * 2, np.int32),
        token_log_probs=np.full((2, 3, 1), -0.01, np.float32),
        encoded_length=np.array([[SILENT_FRAMES // 8 + 1], [3]]),
    )
    (answer,) = model.execute([request])
    outputs = dict(answer)
    assert [row[0].decode() for row in outputs[tensors.TEXT]] == ["", "가"]
    assert outputs[tensors.CONFIDENCE][0, 0] == 0.0 and outputs[tensors.CONFIDENCE][1, 0] > 0.9
    assert outputs[tensors.WORDS][0, 0] == b"[]"


def test_contracts_of_before_the_gate_load(tmp_path: Path) -> None:
    text = "\n".join(line for line in CONTRACT.dump().splitlines() if "silence_dbfs" not in line)
    (tmp_path / Contract.FILE).write_text(text, encoding="utf-8")
    assert Contract.load(tmp_path) == replace(CONTRACT, silence_dbfs=None)
    with pytest.raises(UserError, match="format None"):
        (tmp_path / Contract.FILE).write_text("{}", encoding="utf-8")
        Contract.load(tmp_path)
