"""Streaming models in fp16 and int8, for ONNX Runtime and for TensorRT; test_tensorrt says what is claimed.

No plan was run by any of these tests.
"""

import itertools
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx import numpy_helper
from tritonclient.grpc import model_config_pb2 as pb

from ko_asr.client.streaming import StreamingClient
from ko_asr.errors import UserError
from ko_asr.evaluation.metrics import score
from ko_asr.export.options import ExportOptions
from ko_asr.export.precision import LIMITS, GateUtterance, Limits, read_utterances, refusal
from ko_asr.export.streaming.backend import OnnxBackend, TorchBackend, front_end_of
from ko_asr.export.streaming.chunks import frames_of_clips, onnx_runner
from ko_asr.export.streaming.plan import streaming_difference, streaming_profile
from ko_asr.export.streaming.precision import StreamedGraph, calibration_feeds, compare_streams
from ko_asr.recognition.streaming import StreamingRecognizer
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.driver import compute_capability
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.plan_record import PlanRecord, library_version, save_plan
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.server import TritonServer
from ko_asr.serving.streaming import StreamServing, write_stream_models

ROOT = Path(__file__).resolve().parents[3]
RTX = ROOT / ".rtx" / "bin" / "python"
SERVING = StreamServing(max_batch_size=8)
Exports = dict[str, Path]


@pytest.fixture(scope="module")
def nemo(streaming_model: Path):
    from ko_asr.models.nemo_file import load_exportable_model

    return load_exportable_model(streaming_model)


@pytest.fixture(scope="module")
def speech(demo, nemo) -> list[GateUtterance]:
    from ko_asr.models.front_end import log_mel_of

    return read_utterances(demo.manifests["dev"], log_mel_of(nemo), 16_000, 8, 6000)


@pytest.fixture(scope="module")
def exports(nemo, streaming_model, speech, tmp_path_factory) -> Exports:
    """Look-ahead 6, int8 for the CPU 1; all pass their gates.

    The limits of CER are wide here, and of int8 all: one wrong letter of eight utterances is more than the
    limit, and how sure the demo's short training leaves the model differs from run to run.
    """
    from ko_asr.export.streaming.folder import export_look_ahead

    wide = {
        "fp16": replace(LIMITS["fp16"], cer_rise=0.1),
        "int8": Limits(disagreement=0.1, cer_rise=0.1),
    }
    folder, made = tmp_path_factory.mktemp("precisions"), {}
    for name, look_ahead, target, kind in (
        ("fp32", 6, "tensorrt", "fp32"),
        ("fp16", 6, "onnx", "fp16"),
        ("int8", 1, "onnx", "int8"),
        ("qdq", 6, "tensorrt", "int8"),
    ):
        options = ExportOptions(
            target, kind, max_batch_size=SERVING.max_batch_size, gate=speech, calibration=speech,
            limits=wide.get(kind),
        )  # fmt: skip
        export_look_ahead(nemo, folder / name, look_ahead, source=streaming_model, options=options)
        made[name] = folder / name
    return made


def test_fp16_keeps_states_in_half_and_lengths_as_integers(exports: Exports) -> None:
    contract = StreamingContract.load(exports["fp16"])
    assert (contract.precision, contract.target, contract.max_batch_size) == ("fp16", "onnx", 8)
    assert contract.parity["fp16: frames whose best token changes"] <= 0.005
    assert contract.parity["fp16: the same, streams of 2051 frames"] <= 0.015
    assert [state["dtype"] for state in contract.states] == ["float16", "float16", "int64"]
    graph = onnx.load(str(exports["fp16"] / file_names.GRAPH)).graph
    kinds = onnx.TensorProto
    stored = {tensor.data_type for tensor in graph.initializer if len(tensor.dims) > 1}
    assert kinds.FLOAT16 in stored and kinds.FLOAT not in stored
    found = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output]}
    for state in contract.states:
        wanted = kinds.FLOAT16 if state["dtype"] == "float16" else kinds.INT64
        assert found.pop(state["input"]) == found.pop(state["output"]) == wanted
    assert found == {
        "features": kinds.FLOAT,
        "length": kinds.INT64,
        "token_ids": kinds.INT32,
        "token_log_probs": kinds.FLOAT,
        "encoded_length": kinds.INT64,
        "log_probs": kinds.FLOAT,
    }
    assert not {node.op_type for node in graph.node} & {"Floor", "Ceil"}


@pytest.mark.slow
@pytest.mark.parametrize("factor", [4, 8])
def test_half_precision_holds_all_that_the_subsampling_writes(factor: int) -> None:
    """Frames outside the audio get a large negative sum before their ReLU: it must not become infinite."""
    import torch
    from nemo.collections.asr.parts.submodules.subsampling import ConvSubsampling

    from ko_asr.export.streaming.encoder import Subsampling

    torch.manual_seed(0)
    source = ConvSubsampling(
        "dw_striding", factor, feat_in=80, feat_out=96, conv_channels=32,
        activation=torch.nn.ReLU(), is_causal=True,
    )  # fmt: skip
    full, half = Subsampling(source, 1.0).eval(), Subsampling(source, 1.0).eval().half()
    sums: list[torch.Tensor] = []
    for stage in (half.first, *half.stages):
        stage.register_forward_hook(lambda _module, _inputs, output: sums.append(output))
    window = 2 * (factor - 1) + 6 * factor + 1
    features = torch.from_numpy(np.random.default_rng(0).normal(-6, 3, (4, 80, window))).float()
    length = torch.tensor([[window], [factor + 3], [0], [window - 1]])
    cached = torch.tensor([[0], [0], [70], [70]])
    with torch.inference_mode():
        wanted, got = full(features, length, cached), half(features.half(), length, cached)
    assert len(sums) == {4: 2, 8: 3}[factor] and all(torch.isfinite(value).all() for value in sums)
    assert min(float(value.min()) for value in sums) < -3000
    torch.testing.assert_close(got.float(), wanted, atol=0.02, rtol=0.02)


def test_explicit_int8_has_symmetric_ranges(exports: Exports) -> None:
    graph = onnx.load(str(exports["qdq"] / file_names.GRAPH)).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(nodes) > 40 and not any(np.any(constants[node.input[2]]) for node in nodes)
    assert all(constants[node.input[2]].dtype == np.int8 for node in nodes)
    assert not {node.op_type for node in graph.node} & {"DynamicQuantizeLinear", "MatMulInteger"}
    contract = StreamingContract.load(exports["qdq"])
    assert (contract.target, contract.precision) == ("tensorrt", "int8")
    assert [state["dtype"] for state in contract.states] == ["float32", "float32", "int64"]


def test_calibration_streams_lazily_with_the_states_of_the_audio(exports: Exports, speech) -> None:
    contract = StreamingContract.load(exports["fp32"])
    feeds = calibration_feeds(exports["fp32"] / file_names.GRAPH, contract, speech[:2])
    assert isinstance(feeds, Iterator)
    found = list(feeds)
    chunks = -(-max(frames_of_clips(contract, [item.features for item in speech[:2]])) // contract.chunk)
    assert len(found) == chunks and not found[0][tensors.CACHE_LAST_CHANNEL].any()
    for index, feed in enumerate(found):
        assert feed["features"].shape == (2, contract.mels, contract.window_frames)
        cached = min(contract.left, index * contract.chunk)
        assert (feed[tensors.CACHE_LAST_CHANNEL_LEN] == cached).all()
        assert bool(feed[tensors.CACHE_LAST_CHANNEL].any()) == bool(index)


@pytest.mark.skipif(not RTX.exists(), reason="TensorRT-RTX is not installed: make setup-rtx")
@pytest.mark.parametrize("kind", ["fp32", "fp16", "qdq"])
def test_accepted_by_the_tensorrt_rtx_parser_and_builder(exports: Exports, kind: str) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        f"sys.path.insert(0, {str(ROOT / 'src')!r})\n"
        "import tensorrt_rtx\n"
        "from ko_asr.export.streaming.plan import streaming_profile\n"
        "from ko_asr.export.tensorrt import build_plan\n"
        "from ko_asr.runtime.stream_contract import StreamingContract\n"
        "folder = Path(sys.argv[1])\n"
        "shapes = streaming_profile(StreamingContract.load(folder))\n"
        "print(len(build_plan(tensorrt_rtx, folder / 'model.onnx', shapes, 1 << 30)))\n"
    )
    done = subprocess.run([RTX, "-c", code, exports[kind]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) > 100_000


def test_the_profile_is_the_inputs_of_the_graph(exports: Exports) -> None:
    contract = StreamingContract.load(exports["fp32"])
    shapes = streaming_profile(contract)
    graph = onnx.load(str(exports["fp32"] / file_names.GRAPH)).graph
    inputs = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in graph.input}
    assert inputs.keys() == shapes.keys()
    for name, (least, usual, largest) in shapes.items():
        assert [row[0] for row in (least, usual, largest)] == [1, 4, 8]
        assert inputs[name][1:] == least[1:] == usual[1:] == largest[1:]


# ---- serving ------------------------------------------------------------------------------------


def filled(repository: Path, exported: Path, default: int = 6) -> Path:
    write_stream_models(repository, exported, default, SERVING, ROOT / "export" / "models")
    return repository


def config(repository: Path, name: str) -> pb.ModelConfig:
    return text_format.Parse((repository / name / "config.pbtxt").read_text("utf-8"), pb.ModelConfig())


@pytest.fixture(scope="module")
def server(exports: Exports, tmp_path_factory) -> Iterator[TritonServer]:
    """fp16 as asr_streaming, int8 for the CPU as asr_streaming_1."""
    repository = filled(tmp_path_factory.mktemp("low"), exports["fp16"])
    filled(repository, exports["int8"])
    with TritonServer(repository, ROOT / ".server") as running:
        yield running


def served(url: str, model: str, clips: list[np.ndarray]) -> list[str]:
    texts = []
    with StreamingClient(url, model=model, timeout=60.0) as client:
        for clip in clips:
            with client.open(StreamOptions(endpointing=None)) as stream:
                results = [*stream.send(clip), *stream.finish()]
            texts.append(" ".join(result.text for result in results if result.is_final))
    return texts


def heard(recognizer: StreamingRecognizer, clips: list[np.ndarray]) -> list[str]:
    texts = []
    for clip in clips:
        with recognizer.open() as session:
            results = [*session.push(clip), *session.flush()]
        texts.append(" ".join(result.text for result in results if result.is_final))
    return texts


def test_fp16_is_served_with_the_text_of_fp32(server: TritonServer, exports: Exports, clips) -> None:
    states = config(server.repository, tensors.STREAM_ENCODER).sequence_batching.state
    kinds = [pb.TYPE_FP16, pb.TYPE_FP16, pb.TYPE_INT64]
    assert [state.data_type for state in states] == kinds
    assert [state.initial_state[0].data_type for state in states] == kinds
    wanted = heard(StreamingRecognizer.load(exports["fp32"]), clips[:6])
    assert served(server.url, "asr_streaming", clips[:6]) == wanted and all(wanted)
    assert heard(StreamingRecognizer.load(exports["fp16"]), clips[:6]) == wanted


def test_int8_is_served_on_the_cpu_at_nearly_the_same_error_rate(
    server: TritonServer, exports: Exports, streaming_repository, clips
) -> None:
    fp32, front = (
        streaming_repository / f"{step}_1" / "1"
        for step in (tensors.STREAM_ENCODER, tensors.STREAM_PREPROCESSOR)
    )
    sizes = [(folder / file_names.GRAPH).stat().st_size for folder in (exports["int8"], fp32)]
    assert sizes[0] < 0.7 * sizes[1]
    wanted = heard(StreamingRecognizer(OnnxBackend.load(fp32), front_end_of(front)), clips[:20])
    texts = served(server.url, "asr_streaming_1", clips[:20])
    assert texts == heard(StreamingRecognizer.load(exports["int8"]), clips[:20])
    assert all(texts) and score(wanted, texts).total("cer").rate < 0.1


def test_the_torch_backend_keeps_half_precision_states(nemo, exports: Exports, speech) -> None:
    from ko_asr.export.streaming.graph import StreamingCTC
    from ko_asr.export.streaming.parity import stream_features

    contract = StreamingContract.load(exports["fp16"])
    graph = StreamingCTC(nemo, contract.look_ahead, contract.top_k, half=True).eval()
    clips = [item.features for item in speech]
    backends = TorchBackend(graph, contract), OnnxBackend.load(exports["fp16"])
    found = [[rows.argmax(1) for rows in stream_features(backend, clips)] for backend in backends]
    mine, theirs = map(np.concatenate, found)  # one clip has 50 frames, of which one may be a draw
    assert len(mine) > 300 and np.mean(mine != theirs) < 0.02
    assert list(map(len, found[0])) == list(map(len, found[1]))


# ---- the gate -----------------------------------------------------------------------------------


def damaged(source: Path, target: Path, layer: str, index: int, value: float | None = None) -> Path:
    """A copy of a graph whose node ``layer`` has another constant: noise added, or ``value`` everywhere."""
    model = onnx.load(str(source))
    node = next(node for node in model.graph.node if node.name.endswith(layer))
    constant = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[index])
    old = numpy_helper.to_array(constant)
    noise = np.random.default_rng(0).standard_normal(old.shape).astype(np.float32)
    new = old + noise if value is None else np.full_like(old, value)
    constant.CopyFrom(numpy_helper.from_array(new, constant.name))
    onnx.save(model, str(target))
    return target


def test_a_damaged_graph_is_refused_by_utterance_and_layer(exports: Exports, speech, tmp_path) -> None:
    source, contract = exports["fp32"] / file_names.GRAPH, StreamingContract.load(exports["fp32"])
    bad = damaged(source, tmp_path / "damaged.onnx", "layers.3/feed_forward1/narrow/Gemm", 1)
    graphs, some = (StreamedGraph(source, contract), StreamedGraph(bad, contract)), speech[:3]
    report = compare_streams(*graphs, some, LIMITS["int8"])
    assert not report.passed
    sentence = refusal(report, *graphs, some)
    assert report.worst.name in sentence and "grows most at layer 3" in sentence
    assert "frames whose best token changes" in sentence and "limit 3.00%" in sentence
    nan = damaged(source, tmp_path / "nan.onnx", "head/Gemm", 2, float("nan"))
    report = compare_streams(graphs[0], StreamedGraph(nan, contract), some[:1], LIMITS["fp16"])
    assert not report.passed and report.worst.log_prob == float("inf")


def test_a_state_that_is_lost_between_chunks_does_not_pass(exports: Exports, speech) -> None:
    """The gate carries states: a graph that only differs in what it remembers is refused."""
    contract = StreamingContract.load(exports["fp32"])
    good, forgetful = (StreamedGraph(exports["fp32"] / file_names.GRAPH, contract) for _ in range(2))
    run = forgetful.runner

    def forget(feed):
        return {key: np.zeros_like(a) if key in tensors.STATE_OUTPUTS else a for key, a in run(feed).items()}

    forgetful.runner = forget
    assert not compare_streams(good, forgetful, speech[:3], LIMITS["int8"]).passed
    report = compare_streams(good, good, speech[:3], LIMITS["fp16"])
    assert report.passed and all(figure.value == 0 for figure in report.figures)


# ---- plans --------------------------------------------------------------------------------------


@pytest.fixture
def planned(exports: Exports, tmp_path: Path) -> Path:
    """A repository for TensorRT: fp32 as asr_streaming."""
    return filled(tmp_path / "triton", exports["fp32"])


def test_the_repository_for_tensorrt_names_every_output_of_the_plan(planned: Path, exports: Exports) -> None:
    encoder = config(planned, tensors.STREAM_ENCODER)
    assert (encoder.backend, encoder.default_model_filename) == ("tensorrt", file_names.PLAN)
    assert encoder.max_batch_size == 8 and not encoder.parameters
    graph = onnx.load(str(exports["fp32"] / file_names.GRAPH)).graph
    states = encoder.sequence_batching.state
    configured = [*(o.name for o in encoder.output), *(state.output_name for state in states)]
    assert sorted(configured) == sorted(output.name for output in graph.output)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim][1:] for v in graph.input}
    assert {i.name: list(i.dims) for i in encoder.input} | {
        state.input_name: list(state.dims) for state in states
    } == shapes
    assert {(state.data_type, state.initial_state[0].zero_data) for state in states} == {
        (pb.TYPE_FP32, True),
        (pb.TYPE_INT64, True),
    }


def test_plan_and_graph_are_compared_with_the_states_that_each_keeps(exports: Exports) -> None:
    """The comparison, with ONNX Runtime in the place of a plan."""
    contract = replace(StreamingContract.load(exports["fp32"]), max_batch_size=3)
    graph = exports["fp32"] / file_names.GRAPH
    run = onnx_runner(graph, ("log_probs", "encoded_length"))
    batches = []

    def counted(feed):
        batches.append(len(feed["length"]))
        return run(feed)

    assert streaming_difference(counted, graph, contract) == 0.0
    chunks = contract.left // contract.chunk + 3
    assert {size: len(list(same)) for size, same in itertools.groupby(batches)}.keys() == {1, 3}
    assert batches.count(1) >= chunks and batches.count(3) >= chunks

    def changed(name, change):
        return lambda feed: {key: change(a) if key == name else a for key, a in run(feed).items()}

    for state in tensors.STATE_OUTPUTS:
        assert streaming_difference(changed(state, np.zeros_like), graph, contract) > 0.05
    for name, change in (
        ("encoded_length", lambda counts: counts + 1),
        ("log_probs", lambda a: np.full_like(a, np.nan)),
    ):
        assert streaming_difference(changed(name, change), graph, contract) == float("inf")


def test_the_server_refuses_a_streaming_plan_that_is_missing_or_stale(
    streaming_repository: Path, tmp_path: Path
) -> None:
    """The encoder itself stays on ONNX Runtime, because this server has no TensorRT backend."""
    repository = tmp_path / "triton"
    shutil.copytree(streaming_repository, repository, ignore=shutil.ignore_patterns("*_1"))
    for path in repository.glob(f"*/1/{file_names.STREAM_CONTRACT}"):
        data = json.loads(path.read_text(encoding="utf-8")) | {"target": "tensorrt"}
        path.write_text(json.dumps(data), encoding="utf-8")
    with (
        pytest.raises(UserError, match=r"asr_streaming_encoder/1 holds no finished TensorRT plan"),
        TritonServer(repository, ROOT / ".server"),
    ):
        pass
    record = PlanRecord("a" * 64, "10.13.3", "a GPU", "8.6", 0.0)
    save_plan(repository / tensors.STREAM_ENCODER / "1", b"plan", record)
    with (
        pytest.raises(UserError, match=r"TensorRT plan in .*asr_streaming_encoder/1 was built for graph a"),
        TritonServer(repository, ROOT / ".server"),
    ):
        pass


def build_plan(repository: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "export" / "build_plan.py"), "--repository", str(repository)]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)


def fitting(contract: StreamingContract) -> PlanRecord:
    version, capability = library_version() or "10.13.3", compute_capability() or "8.6"
    return PlanRecord(contract.onnx_sha256, version, "a GPU", capability, 0.0)


def test_build_plan_takes_every_encoder_of_the_repository(demo, planned: Path, exports: Exports) -> None:
    """Offline for ONNX Runtime; two streaming ones for TensorRT, of which one is built already."""
    shutil.copytree(demo.repository / "asr_encoder", planned / "asr_encoder")
    first, second = planned / tensors.STREAM_ENCODER, planned / f"{tensors.STREAM_ENCODER}_13"
    shutil.copytree(first, second)
    contract = StreamingContract.load(first / "1")
    save_plan(first / "1", b"plan", fitting(contract))
    done = build_plan(planned, "--if-needed")
    assert done.returncode == 2 and "TensorRT cannot be imported" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "asr_encoder was exported for onnx, no plan is needed" in done.stdout
    assert f"{tensors.STREAM_ENCODER}: its plan fits this machine, no plan is needed" in done.stdout
    assert (first / "1" / file_names.PLAN).read_bytes() == b"plan"
    save_plan(second / "1", b"plan", fitting(contract))
    done = build_plan(planned, "--if-needed")
    assert done.returncode == 0 and done.stdout.count("its plan fits this machine") == 2, done.stderr
    (second / "1" / file_names.GRAPH).write_bytes(b"another graph")
    shutil.rmtree(first)
    done = build_plan(planned)
    assert (
        done.returncode == 2 and f"{tensors.STREAM_ENCODER}_13/1/model.onnx is not the graph" in done.stderr
    )


def test_build_plan_says_why_there_is_nothing_to_build(exports: Exports, tmp_path: Path) -> None:
    done = build_plan(filled(tmp_path / "triton", exports["fp16"]))
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "asr_streaming_encoder was exported for onnx; export it with target=tensorrt" in done.stderr
    done = build_plan(tmp_path / "nowhere")
    assert done.returncode == 2 and "no model repository at" in done.stderr
