"""TensorRT without a GPU: what can be checked is named for what it is.

- "accepted by the TensorRT-RTX parser and builder": every exported graph goes through `build_plan` with
  TensorRT-RTX, which compiles on a CPU (`make setup-rtx`). It cannot run there.
- the API check: every name that `ko_asr.export.tensorrt` and its callers take from ``tensorrt`` exists in the
  real Python bindings of 10.13, 11.2 and 11.4, imported over stub libraries.
- a plan that is missing or stale is refused at start.

Streaming graphs: streaming/test_precision.py.

No plan was run by any of these tests.
"""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ko_asr.errors import UserError
from ko_asr.export.offline.plan import offline_profile
from ko_asr.runtime import file_names, plan_record, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.plan_record import PlanRecord, check_plan, save_plan
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.serving.server import TritonServer

ROOT = Path(__file__).resolve().parents[2]
RTX = ROOT / ".rtx" / "bin" / "python"
BINDINGS = ("10.13.3.9", "11.2.1.2", "11.4.0.106")

# In a process of its own: TensorRT-RTX may crash on a graph that it does not like.
BUILD = """
import sys
from pathlib import Path
sys.path.insert(0, {source!r})
import tensorrt_rtx
from ko_asr.export.offline.plan import offline_profile
from ko_asr.export.tensorrt import build_plan
shapes = {shapes!r} or offline_profile(80, [32, 96], 2)
print(len(build_plan(tensorrt_rtx, Path(sys.argv[1]), shapes, 1 << 30)))
"""


def built_by_rtx(graph: Path, shapes: dict | None = None) -> int:
    """Bytes of what TensorRT-RTX compiles of ``graph``, by default for the encoder's profile."""
    code = BUILD.format(source=str(ROOT / "src"), shapes=shapes)
    done = subprocess.run([RTX, "-c", code, str(graph)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not RTX.exists(), reason="TensorRT-RTX is not installed: make setup-rtx")
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_accepted_by_the_tensorrt_rtx_parser_and_builder(demo, kind: str, tmp_path: Path) -> None:
    graph = demo.repository / tensors.ENCODER / "1" / file_names.GRAPH
    if kind == "fp16":
        from ko_asr.export.offline.graph import export_encoder
        from ko_asr.models.nemo_file import load_exportable_model

        export_encoder(load_exportable_model(demo.model), graph := tmp_path / "fp16.onnx", 6000, half=True)
    if kind == "int8":
        from ko_asr.export.offline.precision import calibration_feeds
        from ko_asr.export.precision import read_utterances
        from ko_asr.export.quantize import quantize_for_tensorrt
        from ko_asr.runtime.log_mel import LogMel

        log_mel = LogMel.load(demo.repository / tensors.PREPROCESSOR / "1" / file_names.LOG_MEL)
        speech = read_utterances(demo.manifests["dev"], log_mel, 16_000, 4, 6000)
        quantize_for_tensorrt(graph, graph := tmp_path / "int8.onnx", calibration_feeds(speech))
    assert built_by_rtx(graph) > 100_000


@pytest.mark.skipif(not RTX.exists(), reason="TensorRT-RTX is not installed: make setup-rtx")
def test_the_log_mel_graphs_are_accepted_too(graph_repository: Path) -> None:
    contract = Contract.load(graph_repository / tensors.LOG_MEL / "1")
    few, many = contract.padded_samples(32), contract.padded_samples(96)
    places = {tensors.SAMPLES: [[1, 1], [1, 1], [2, 1]], tensors.BEFORE: [[1, 1], [1, 1], [2, 1]]}
    offline = {
        tensors.PADDED_AUDIO: [[1, few], [1, many], [2, many]],
        tensors.SAMPLES: places[tensors.SAMPLES],
    }
    assert (
        built_by_rtx(graph_repository / tensors.LOG_MEL / "1" / file_names.LOG_MEL_GRAPH, offline) > 100_000
    )
    folder = graph_repository / tensors.STREAM_LOG_MEL / "1"
    size = StreamingContract.load(folder).window_audio
    window = {tensors.PADDED_AUDIO: [[1, size], [1, size], [2, size]], **places}
    assert built_by_rtx(folder / file_names.LOG_MEL_GRAPH, window) > 100_000


def tensorrt_names() -> set[str]:
    """Dotted names that are taken from the module called ``trt``, methods on objects included."""
    files = (
        "src/ko_asr/export/tensorrt.py",
        "src/ko_asr/export/offline/plan.py",
        "src/ko_asr/export/streaming/plan.py",
        "export/build_plan.py",
        "bench/gpu_check.py",
    )
    trees = (ast.parse((ROOT / file).read_text(encoding="utf-8")) for file in files)
    found = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            for prefix in ("trt.", "self.trt."):
                if text.startswith(prefix) and "(" not in text:
                    found.add(text.removeprefix(prefix))
    return found


METHODS = {
    "Builder": "create_network create_builder_config create_optimization_profile build_serialized_network",
    "OnnxParser": "parse_from_file num_errors get_error",
    "IBuilderConfig": "set_memory_pool_limit add_optimization_profile",
    "IOptimizationProfile": "set_shape",
    "ParserError": "desc",
    "Runtime": "deserialize_cuda_engine",
    "ICudaEngine": "create_execution_context num_io_tensors get_tensor_name get_tensor_mode get_tensor_dtype",
    "IExecutionContext": "set_input_shape set_tensor_address get_tensor_shape execute_async_v3",
}

# Libraries that the bindings link; nothing of them is ever called.
STUBS = ("libnvinfer.so.{0}", "libnvonnxparser.so.{0}", "libnvinfer_plugin.so.{0}")


@pytest.fixture(scope="module")
def bindings(tmp_path_factory) -> Path:
    """The real bindings wheels, unpacked."""
    folder = tmp_path_factory.mktemp("bindings")
    for version in BINDINGS:
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        command += [str(folder / version), f"tensorrt-cu13-bindings=={version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"the bindings of TensorRT {version} cannot be downloaded here")
    return folder


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the stub libraries")
@pytest.mark.parametrize("version", BINDINGS)
def test_api_of_the_real_bindings(bindings: Path, version: str, tmp_path: Path) -> None:
    folder = bindings / version
    major = version.partition(".")[0]
    module = next(folder.rglob("tensorrt*.so"))
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(module)], capture_output=True, text=True, check=True
    )
    # What glibc and libstdc++ provide carries a version (@), Python's own begins with Py.
    lines = [line.split() for line in symbols.stdout.splitlines()]
    wanted = [name for kind, name in lines if kind == "U" and "@" not in name and "Py" not in name[:3]]
    source = tmp_path / "stub.c"
    source.write_text("".join(f"int {name}(void) {{ return 0; }}\n" for name in wanted), encoding="utf-8")
    for stub in STUBS:
        out = tmp_path / stub.format(major)
        subprocess.run(["cc", "-shared", "-fPIC", "-w", "-fno-builtin", "-o", out, source], check=True)
    paths = [[name, *name.split(".")] for name in sorted(tensorrt_names())]
    code = (
        "import sys, ctypes, json\n"
        f"sys.path.insert(0, {str(folder)!r})\n"
        f"for path in {[str(tmp_path / stub.format(major)) for stub in STUBS]!r}:\n"
        "    ctypes.CDLL(path, ctypes.RTLD_GLOBAL)\n"
        "import tensorrt_bindings as trt\n"
        f"for name, *parts in {paths!r}:\n"
        "    value = trt\n"
        "    for part in parts: value = getattr(value, part)\n"
        f"for kind, methods in {METHODS!r}.items():\n"
        "    for method in methods.split(): getattr(getattr(trt, kind), method)\n"
        "print(trt.__version__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={"LD_LIBRARY_PATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == version


def test_the_profile_covers_what_the_contract_lets_in(demo) -> None:
    contract = Contract.load(demo.repository / tensors.ENCODER / "1")
    shapes = offline_profile(contract.mels, contract.bucket_frames, contract.max_batch_size)
    least, usual, largest = shapes["features"]
    assert least == [1, 80, min(contract.bucket_frames)]
    assert largest == [contract.max_batch_size, 80, max(contract.bucket_frames)]
    assert all(a <= b <= c for a, b, c in zip(least, usual, largest, strict=True))
    assert max(contract.bucket_frames) * contract.hop >= contract.max_samples


def record(**changes: str) -> PlanRecord:
    facts = {"onnx_sha256": "a" * 64, "tensorrt": "10.13.3", "gpu": "X", "compute_capability": "8.6"}
    return PlanRecord(**(facts | changes), largest_difference=0.0)


def test_a_stale_plan_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no finished TensorRT plan"):
        check_plan(tmp_path, "a" * 64)
    save_plan(tmp_path, b"plan", record())
    check_plan(tmp_path, "a" * 64)
    with pytest.raises(UserError, match=r"built for graph aaaa.*here is bbbb.*build_plan.py"):
        check_plan(tmp_path, "b" * 64)
    monkeypatch.setattr(plan_record, "library_version", lambda: "11.4.0")
    with pytest.raises(UserError, match=r"built for TensorRT 10\.13\.3, here is 11\.4\.0"):
        check_plan(tmp_path, "a" * 64)
    (tmp_path / file_names.PLAN).unlink()
    with pytest.raises(UserError, match=r"holds no model\.plan"):
        check_plan(tmp_path, "a" * 64)
    (tmp_path / file_names.PLAN_RECORD).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="no finished TensorRT plan"):
        check_plan(tmp_path, "a" * 64)


def test_the_server_refuses_a_repository_whose_plan_is_stale(demo, tmp_path: Path) -> None:
    repository = tmp_path / "triton"
    shutil.copytree(demo.repository, repository)
    for folder in repository.glob("*/1"):
        path = folder / file_names.CONTRACT
        if path.is_file():
            data = json.loads(path.read_text(encoding="utf-8")) | {"target": "tensorrt"}
            path.write_text(json.dumps(data), encoding="utf-8")
    save_plan(repository / tensors.ENCODER / "1", b"plan", record())
    with (
        pytest.raises(UserError, match=r"the TensorRT plan in .* was built for graph aaaa"),
        TritonServer(repository, demo.server),
    ):
        pass


@pytest.mark.parametrize(
    ("target", "sentence"),
    [("onnx", "was exported for onnx"), ("tensorrt", "TensorRT cannot be imported")],
)
def test_build_plan_says_what_is_missing(demo, target: str, sentence: str, tmp_path: Path) -> None:
    folder = tmp_path / "triton" / tensors.ENCODER / "1"
    shutil.copytree(demo.repository / tensors.ENCODER / "1", folder)
    path = folder / file_names.CONTRACT
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"target": target}), encoding="utf-8"
    )
    command = [
        sys.executable,
        str(ROOT / "export" / "build_plan.py"),
        "--repository",
        str(tmp_path / "triton"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (folder / file_names.PLAN).exists()
