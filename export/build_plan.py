"""Build the encoder's TensorRT plan where it will serve, and check it against ONNX Runtime.

    python export/to_triton.py target=tensorrt precision=fp16 ...     # anywhere: fills the repository
    python export/build_plan.py --repository triton/                  # inside the serving container
    docker compose run --rm plan                                      # the same, from outside

Needs numpy, tensorrt, onnxruntime and an NVIDIA GPU; no torch, no NeMo. In a container that has the checkout
mounted and nothing installed, this script finds src/ by itself. A plan that differs from the graph by more
than the limit is not published; the model.onnx beside it stays, so target=onnx serves on any machine.
"""

import argparse
import importlib.util
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("ko_asr") is None:  # before the imports below, hence their noqa
    sys.path.append(str(ROOT / "src"))

from ko_asr import plan  # noqa: E402
from ko_asr.contract import ENCODER, Contract  # noqa: E402
from ko_asr.errors import UserError, run_main  # noqa: E402

# Of the best tokens' log-probabilities; a GPU sums in another order, in TF32 or half precision.
LIMITS = {"fp32": 0.05, "fp16": 0.2, "int8": 0.5}


def encoder_folder(repository: Path) -> tuple[Path, Contract]:
    """The encoder's version folder and its contract. UserError when it was not exported for TensorRT."""
    folder = repository / ENCODER / "1"
    contract = Contract.load(folder)
    if contract.target != "tensorrt":
        raise UserError(f"{folder} was exported for {contract.target}: export it with target=tensorrt first")
    graph = folder / "model.onnx"
    if not graph.is_file() or plan.sha256(graph) != contract.onnx_sha256:
        raise UserError(f"{graph} is not the graph of its contract: export the model again")
    return folder, contract


def nothing_to_build(repository: Path) -> str | None:
    """Why no plan has to be built for ``repository``; None when one has to be."""
    folder = repository / ENCODER / "1"
    if repository.is_dir() and not folder.is_dir():
        return "it holds no offline model"
    contract = Contract.load(folder)
    if contract.target != "tensorrt":
        return f"it was exported for {contract.target}"
    try:
        plan.check_plan(folder, contract.onnx_sha256)
    except UserError:
        return None
    return "its plan fits this machine"


def build(folder: Path, contract: Contract, limit: float | None = None) -> plan.Record:
    """Build, compare and publish the plan of one exported encoder."""
    trt = plan.load_tensorrt()
    gpu, capability = plan.gpu_name(), plan.compute_capability()
    if gpu is None or capability is None:
        raise UserError("no NVIDIA GPU answers here: build the plan on the machine that will serve it")
    version = ".".join(trt.__version__.split(".")[:3])
    shapes = plan.profile(contract.mels, contract.bucket_frames, contract.max_batch_size)
    print(f"building for TensorRT {version} on {gpu}: {shapes} (minutes)")
    started = time.monotonic()
    serialized = plan.build_plan(trt, folder / "model.onnx", shapes)
    difference = plan.largest_difference(plan.Runner(trt, serialized), folder / "model.onnx", shapes)
    limit = LIMITS[contract.precision] if limit is None else limit
    seconds = time.monotonic() - started
    print(f"built in {seconds:.0f} s; against ONNX Runtime {difference:.1e} (limit {limit:g})")
    if not difference <= limit:
        raise UserError(f"the plan differs from the graph by {difference:.2g}, over {limit:g}: not written")
    record = plan.Record(contract.onnx_sha256, version, gpu, capability, difference)
    plan.save_plan(folder, serialized, record)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, default=ROOT / "triton", help="default triton/")
    parser.add_argument("--if-needed", action="store_true", help="end well when there is nothing to build")
    parser.add_argument("--limit", type=float, help=f"largest log-probability difference (default {LIMITS})")
    options = parser.parse_args()
    if options.if_needed and (reason := nothing_to_build(options.repository)):
        print(f"{options.repository}: {reason}, no plan is needed")
        return
    folder, contract = encoder_folder(options.repository)
    build(folder, contract, options.limit)
    print(f"wrote {folder / plan.FILE_NAME} and {plan.RECORD}")
    print(f"next: tritonserver --model-repository {options.repository}")


if __name__ == "__main__":
    run_main(main)
