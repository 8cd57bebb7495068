"""export/to_triton.py by its front door, on random weights; serving/test_offline.py has the trained model."""

import importlib.util
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import commands
import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "export" / "to_triton.py"
MODELS = (tensors.DECODER, tensors.ENCODER, tensors.ENSEMBLE, tensors.PREPROCESSOR)


def run(*arguments: object, script: Path = SCRIPT, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    return commands.run(script, *arguments, cwd=cwd)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Random weights, 4x subsampling (the demo model covers 8x)."""
    path = tmp_path_factory.mktemp("model") / "random.nemo"
    made = run(
        "--size",
        "xs",
        "--vocabulary",
        64,
        "--subsampling",
        4,
        "--out",
        path,
        script=ROOT / "bench/random_model.py",
    )
    assert made.returncode == 0, made.stderr
    return path


@pytest.fixture(scope="module")
def repository(model: Path, tmp_path_factory) -> Path:
    """Filled from another folder, over an older export, beside a model that is not ours."""
    folder = tmp_path_factory.mktemp("served") / "triton"
    for stale in (tensors.ENCODER, "someone_elses"):
        (folder / stale / "7").mkdir(parents=True)
        (folder / stale / "config.pbtxt").write_text("stale", encoding="utf-8")
    relative = os.path.relpath(model, folder.parent)
    done = run(f"model={relative}", "repository=triton", "max_batch_size=4", "target=onnx", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert f"exporting {model}" in done.stdout
    assert "next: tritonserver --model-repository triton/" in done.stdout
    return folder


@pytest.mark.slow
def test_the_repository_is_whole_and_nothing_else_is_touched(repository: Path) -> None:
    assert sorted(p.name for p in repository.iterdir()) == sorted([*MODELS, "someone_elses"])
    assert [p.name for p in repository.parent.iterdir()] == ["triton"], "a staging folder was left"
    assert (repository / "someone_elses" / "config.pbtxt").read_text(encoding="utf-8") == "stale"
    assert not (repository / tensors.ENCODER / "7").exists()
    assert len({Contract.load(repository / model / "1").export_id for model in MODELS}) == 1


@pytest.mark.slow
def test_configurations_are_tritons_own_message(repository: Path) -> None:
    for model in MODELS:
        text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
        config = text_format.Parse(text, model_config_pb2.ModelConfig())
        assert (config.name, config.max_batch_size) == (model, 4)
    encoder = text_format.Parse(
        (repository / tensors.ENCODER / "config.pbtxt").read_text(encoding="utf-8"),
        model_config_pb2.ModelConfig(),
    )
    assert encoder.backend == "onnxruntime" and len(encoder.model_warmup) == 2


@pytest.mark.slow
def test_the_contract_says_what_was_measured(repository: Path, model: Path) -> None:
    contract = Contract.load(repository / tensors.ENCODER / "1")
    assert contract.model == "random.nemo" and contract.subsampling == 4
    assert contract.frame_seconds == 0.04 and contract.blank_id == 64
    assert contract.max_samples == 60 * 16_000
    assert contract.parity and max(contract.parity.values()) <= 1e-3
    assert any("2051" in name for name in contract.parity), "an odd length above 2048 frames is in the gate"


@pytest.mark.slow
def test_graph_has_integer_lengths_and_named_axes(repository: Path) -> None:
    import onnx

    graph = onnx.load(str(repository / tensors.ENCODER / "1" / file_names.GRAPH)).graph
    axes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert axes == {"features": ["batch", 80, "frames"], "length": ["batch", 1]}
    assert [o.name for o in graph.output] == ["token_ids", "token_log_probs", "encoded_length", "log_probs"]
    producers = {output: node for node in graph.node for output in node.output}
    pending, ops, seen = ["encoded_length"], set(), set()
    while pending:
        name = pending.pop()
        if (node := producers.get(name)) and name not in seen:
            seen.add(name)
            ops.add(node.op_type)
            pending += node.input
    assert not ops & {"Floor", "Ceil"}, "lengths must not pass through floating point"


@pytest.mark.slow
def test_the_gate_refuses_a_graph_that_differs(repository: Path, model: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    from ko_asr.export.offline.parity import check_graph
    from ko_asr.models.nemo_file import load_exportable_model

    good = repository / tensors.ENCODER / "1" / file_names.GRAPH
    graph = onnx.load(str(good))
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed = numpy_helper.to_array(weight) * np.float32(1.01)
    weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
    onnx.save(graph, str(tmp_path / "changed.onnx"))
    nemo = load_exportable_model(model)
    assert all(figure.passed for figure in check_graph(nemo, good, 80, 6000))
    assert not all(figure.passed for figure in check_graph(nemo, tmp_path / "changed.onnx", 80, 6000))


@pytest.mark.slow
def test_truncated_checkpoint_changes_nothing(repository: Path, model: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.nemo"
    half.write_bytes(model.read_bytes()[: model.stat().st_size // 2])
    before = snapshot(repository)
    done = run("--model", half, "--repository", repository)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {half} is not a whole .nemo file (")
    assert len(done.stderr.splitlines()) == 1
    assert snapshot(repository) == before
    assert [p.name for p in repository.parent.iterdir()] == ["triton"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "/nowhere/x.nemo"], "error: no model at /nowhere/x.nemo"),
        (
            ["--model", "{tmp}/whole.nemo", "--repository", "/proc/triton"],
            "error: cannot write the model repository /proc",
        ),
        (
            ["--model", str(SCRIPT), "--repository", "{tmp}/r"],
            f"error: {SCRIPT} is not a whole .nemo file",
        ),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "whole.nemo", "w") as archive:
        member, content = tarfile.TarInfo("model_config.yaml"), b"sample_rate: 16000\n"
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    done = run(*[argument.format(tmp=tmp_path) for argument in arguments])
    assert done.returncode == 2
    assert done.stderr.startswith(sentence) and len(done.stderr.strip().splitlines()) == 1


def test_without_argument_the_newest_model_is_taken(tmp_path: Path) -> None:
    specification = importlib.util.spec_from_file_location("to_triton", SCRIPT)
    assert specification and specification.loader
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    for age, name in ((300, "a/old.nemo"), (10, "b/c/new.nemo"), (900, "oldest.nemo")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (1e9 - age, 1e9 - age))
    assert script.newest_model(tmp_path).name == "new.nemo"
    with pytest.raises(script.UserError, match=r"no \.nemo under"):
        script.newest_model(tmp_path / "a" / "nothing")


@pytest.mark.slow
def test_contract_of_another_format_is_refused(repository: Path, tmp_path: Path) -> None:
    data = json.loads((repository / tensors.ENCODER / "1" / file_names.CONTRACT).read_text(encoding="utf-8"))
    (tmp_path / file_names.CONTRACT).write_text(json.dumps(data | {"format": 0}), encoding="utf-8")
    with pytest.raises(Exception, match="export the model again"):
        Contract.load(tmp_path)


ENCODERS = {
    "full context": {},
    "striding, 4x": {"subsampling": "striding", "subsampling_factor": 4},
    "streaming": {
        "causal_downsampling": True,
        "att_context_style": "chunked_limited",
        "att_context_size": [70, 13],
        "conv_norm_type": "layer_norm",
        "conv_context_size": "causal",
    },
    "limited context": {"att_context_size": [20, 5]},
    "no biases": {"use_bias": False, "xscaling": False, "untie_biases": False},
    "projected": {"feat_out": 48},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ENCODERS)
def test_the_fused_encoder_is_nemos(kind: str) -> None:
    """Every row of a padded batch, its padding full of noise, equals NeMo's encoder on that row alone."""
    import torch
    from nemo.collections.asr.modules import ConformerEncoder

    from ko_asr.export.offline.encoder import FusedEncoder

    torch.manual_seed(0)
    size = {"feat_in": 80, "n_layers": 2, "d_model": 32, "n_heads": 4, "subsampling_conv_channels": 32}
    kernel = {"conv_kernel_size": 9, "pos_emb_max_len": 500, "subsampling": "dw_striding"}
    nemo = ConformerEncoder(**(size | kernel | {"subsampling_factor": 8} | ENCODERS[kind])).eval()
    for module in nemo.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(getattr(module, "pos_bias_u", None), torch.nn.Parameter):
            torch.nn.init.normal_(module.pos_bias_u)
            torch.nn.init.normal_(module.pos_bias_v)
    lengths = [311, 200, 57, 9]
    features = torch.randn(4, 80, 311)
    with torch.inference_mode():
        ours, counts = FusedEncoder(nemo, 3000).eval()(features, torch.tensor(lengths))
        ours = ours.reshape(4, -1, ours.shape[-1])
        for row, length in enumerate(lengths):
            alone = features[row : row + 1, :, :length]
            theirs, count = nemo(audio_signal=alone, length=torch.tensor([length]))
            assert int(counts[row]) == int(count)
            assert (theirs[0].T - ours[row, : int(count)]).abs().max() < 1e-5


@pytest.mark.slow
def test_an_encoder_that_is_not_exported_is_one_sentence() -> None:
    from nemo.collections.asr.modules import ConformerEncoder

    from ko_asr.errors import UserError
    from ko_asr.export.offline.encoder import FusedEncoder

    local = ConformerEncoder(
        feat_in=80, n_layers=1, d_model=32, self_attention_model="rel_pos_local_attn", att_context_size=[8, 8]
    )
    with pytest.raises(UserError, match="self_attention_model=rel_pos_local_attn; only rel_pos"):
        FusedEncoder(local, 3000)


def test_the_gpu_check_without_a_gpu_is_one_sentence() -> None:
    from ko_asr.runtime.driver import gpu_name

    if gpu_name() is not None:
        pytest.skip("this machine has a GPU")
    done = run(script=ROOT / "bench" / "gpu_check.py")
    assert done.returncode == 2 and done.stderr.startswith("error: no NVIDIA GPU answers on this machine")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_gpu_check_rehearsed_on_the_cpu(tmp_path: Path) -> None:
    """All of the script but TensorRT and CUDA, which only a GPU can run."""
    done = run("--rehearse", "--out", tmp_path / "out.json", script=ROOT / "bench" / "gpu_check.py")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert found["device"].startswith("CPU, a rehearsal") and "gpu" not in found
    results = found["results"]
    for name in ("ONNX Runtime cpu fp32", "PyTorch fp32"):
        assert [row["batch"] for row in results[name]] == [1, 2], name
        assert all(0 < row["p50_ms"] <= row["p99_ms"] and row["rtfx"] > 0 for row in results[name]), name
    for look_ahead, chunk_ms in ((6, 560), (1, 160)):
        rows = results[f"streams, ONNX Runtime cpu [70,{look_ahead}] fp32"]
        assert [round(row["chunk_ms"]) for row in rows] == [chunk_ms] * 2
        assert all(row["streams"] * row["p50_ms"] == pytest.approx(row["batch"] * chunk_ms) for row in rows)
    assert {row["audio_seconds"] for row in results["an hour of audio, PyTorch"].values()} == {30.0}
