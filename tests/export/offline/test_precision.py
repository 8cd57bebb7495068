"""fp16 and int8 of the trained demo model, and what their gate says when it refuses."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import run

from ko_asr.export.offline.precision import OfflineGraph, calibration_feeds, compare_graphs
from ko_asr.export.precision import LIMITS, GateUtterance, Limits, layer_errors, read_utterances, refusal
from ko_asr.export.quantize import quantize_for_cpu, quantize_for_tensorrt
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.log_mel import LogMel


def export(*arguments: object) -> subprocess.CompletedProcess:
    return run("export/to_triton.py", *arguments)


@pytest.fixture(scope="module")
def speech(demo) -> list[GateUtterance]:
    log_mel = LogMel.load(demo.repository / tensors.PREPROCESSOR / "1" / file_names.LOG_MEL)
    return read_utterances(demo.manifests["eval_other"], log_mel, 16_000, 24, 6000)


# Wider than what is published may cost: a letter of 24 noisy utterances, or a frame of a short row, is a big
# share, and the demo's short training leaves some models surer than others.
INT8 = Limits(disagreement=0.06, cer_rise=0.02)


@pytest.fixture(scope="module")
def graph(demo) -> Path:
    return demo.repository / tensors.ENCODER / "1" / file_names.GRAPH


def compared(graph: Path, candidate: Path) -> tuple[OfflineGraph, OfflineGraph]:
    """The graph of the demo and another one, ready to be compared."""
    vocabulary = Contract.load(graph.parent).text_vocabulary()
    return OfflineGraph(graph, vocabulary, 6000), OfflineGraph(candidate, vocabulary, 6000)


@pytest.fixture(scope="module")
def half(demo, tmp_path_factory) -> Path:
    """The demo exported in half precision by the command itself, for TensorRT."""
    repository = tmp_path_factory.mktemp("half") / "triton"
    done = export(
        f"model={demo.model}",
        f"repository={repository}",
        "precision=fp16",
        "target=tensorrt",
        f"gate_manifest={demo.manifests['eval_clean']}",
        "gate_utterances=24",
        "max_cer_rise=0.005",  # one letter of so few utterances is 0.25 %
    )
    assert done.returncode == 0, done.stderr
    assert "fp16 against fp32, CER" in done.stdout
    assert "next, in the serving container: python export/build_plan.py" in done.stdout
    return repository


def test_fp16_keeps_the_best_tokens_and_its_lengths_are_integers(half: Path) -> None:
    import onnx

    contract = Contract.load(half / tensors.ENCODER / "1")
    assert (contract.precision, contract.target) == ("fp16", "tensorrt")
    assert contract.parity["fp16: frames whose best token changes"] <= 0.005
    model = onnx.load(str(half / tensors.ENCODER / "1" / file_names.GRAPH))
    types = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}
    assert types == {onnx.TensorProto.FLOAT16}
    assert {o.name: o.type.tensor_type.elem_type for o in model.graph.output} == {
        tensors.TOKEN_IDS: onnx.TensorProto.INT32,
        tensors.TOKEN_LOG_PROBS: onnx.TensorProto.FLOAT,
        tensors.ENCODED_LENGTH: onnx.TensorProto.INT64,
        tensors.LOG_PROBS: onnx.TensorProto.FLOAT,
    }
    assert 'backend: "tensorrt"' in (half / tensors.ENCODER / "config.pbtxt").read_text(encoding="utf-8")


def test_int8_on_the_cpu_passes_its_gate_and_is_not_the_fp32_graph(demo, graph, speech, tmp_path) -> None:
    low = tmp_path / "int8.onnx"
    quantize_for_cpu(graph, low)
    assert low.stat().st_size < 0.7 * graph.stat().st_size
    graphs = compared(graph, low)
    report = compare_graphs(*graphs, speech, INT8)
    assert report.passed, report.figures
    errors = layer_errors(*graphs, speech[0])
    assert len(errors) == 5 and all(0 < error < 0.1 for error in errors.values()), errors


def test_explicit_int8_has_symmetric_ranges_from_the_audio(graph, speech, tmp_path) -> None:
    import onnx
    from onnx import numpy_helper

    low = tmp_path / "qdq.onnx"
    quantize_for_tensorrt(graph, low, calibration_feeds(speech[:8]))
    model = onnx.load(str(low))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(nodes) > 40 and not any(np.any(constants[node.input[2]]) for node in nodes)
    assert not {node.op_type for node in model.graph.node} & {"DynamicQuantizeLinear", "MatMulInteger"}
    report = compare_graphs(*compared(graph, low), speech, INT8)
    assert report.passed, report.figures


def test_a_graph_with_one_damaged_layer_is_refused_by_utterance_and_layer(graph, speech, tmp_path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(graph))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    layer = next(n for n in model.graph.node if n.name.endswith("layers.3/attention/out/Gemm"))
    weight = constants[layer.input[1]]
    noise = np.random.default_rng(0).standard_normal(tuple(weight.dims)).astype(np.float32)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + noise, weight.name))
    damaged = tmp_path / "damaged.onnx"
    onnx.save(model, str(damaged))
    graphs = compared(graph, damaged)
    report = compare_graphs(*graphs, speech, LIMITS["int8"])
    assert not report.passed
    sentence = refusal(report, *graphs, speech)
    assert report.worst.name in sentence and "grows most at layer 3" in sentence


def test_a_graph_that_gives_nan_is_refused(graph, speech, tmp_path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(graph))
    head = next(n for n in model.graph.node if n.name.endswith("head/Gemm"))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == head.input[2])
    bias.CopyFrom(numpy_helper.from_array(np.full(tuple(bias.dims), np.nan, np.float32), bias.name))
    onnx.save(model, str(tmp_path / "nan.onnx"))
    report = compare_graphs(*compared(graph, tmp_path / "nan.onnx"), speech[:2], LIMITS["fp16"])
    assert not report.passed and report.worst.log_prob == float("inf")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["precision=fp16"], "add --gate-manifest"),
        (["precision=int8", "target=tensorrt", "gate_manifest=x.jsonl"], "add --calibration"),
        (["precision=int8", "gate_manifest=/nowhere/a_b.jsonl"], "no manifest at /nowhere/a_b.jsonl"),
    ],
)
def test_a_precision_that_nothing_judges_is_one_sentence(arguments: list[str], sentence: str) -> None:
    done = export(*arguments)
    assert done.returncode == 2 and sentence in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_refused_precision_changes_nothing(demo, tmp_path) -> None:
    repository = tmp_path / "triton"
    silent = tmp_path / "gate.jsonl"
    first = demo.manifests["eval_clean"].read_text(encoding="utf-8").splitlines()[0]
    folder = demo.manifests["eval_clean"].parent
    text = first.replace('"audio_filepath": "', f'"audio_filepath": "{folder}{os.sep}')
    silent.write_text(text + "\n", encoding="utf-8")
    done = export(
        "--model", demo.model, "--repository", repository, "--precision", "int8",
        "--gate-manifest", silent, "--max-cer-rise", "-1",
    )  # fmt: skip
    assert done.returncode == 2, done.stdout
    reason = done.stderr.strip().splitlines()[-1]
    assert reason.startswith("error: int8 costs too much: CER rise") and "layer" in reason
    assert not list(repository.iterdir())
