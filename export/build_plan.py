"""Build the encoders' TensorRT plans where they will serve, and check them against ONNX Runtime.

    python export/to_triton.py target=tensorrt precision=fp16 ...     # anywhere: fills the repository
    python export/build_plan.py --repository triton/                  # inside the serving container
    docker compose run --rm plan                                      # the same, from outside

Every encoder that was exported for TensorRT gets its plan: the offline one and each look-ahead of a streaming
model, which is compared stream by stream, with the states that it keeps from chunk to chunk. --if-needed
leaves the plans that fit this machine.

Needs numpy, tensorrt, onnxruntime and an NVIDIA GPU; no torch, no NeMo. In a container that has the checkout
mounted and nothing installed, this script finds src/ by itself. A plan that differs from the graph by more
than the limit is not published; the model.onnx beside it stays, so target=onnx serves on any machine.
"""

import argparse
import importlib.util
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("ko_asr") is None:
    sys.path.append(str(ROOT / "src"))

from ko_asr.errors import UserError, run_main
from ko_asr.export.offline.plan import offline_difference, offline_profile
from ko_asr.export.streaming.plan import streaming_difference, streaming_profile
from ko_asr.export.tensorrt import PlanRunner, Shapes, build_plan, load_tensorrt
from ko_asr.provenance import sha256
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.driver import compute_capability, gpu_name
from ko_asr.runtime.plan_record import PlanRecord, check_plan, save_plan
from ko_asr.runtime.stream_contract import StreamingContract

# Of the best tokens' log-probabilities; a GPU sums in another order, in TF32 or half precision.
LIMITS = {"fp32": 0.05, "fp16": 0.2, "int8": 0.5}


@dataclass(frozen=True)
class Encoder:
    """An exported encoder: its version folder and its contract, which says whether it is a streaming one."""

    folder: Path
    contract: Contract | StreamingContract

    @property
    def name(self) -> str:
        """Its model's name in the repository."""
        return self.folder.parent.name

    def shapes(self) -> Shapes:
        """The least, usual and largest shape of each input of its plan."""
        contract = self.contract
        if isinstance(contract, StreamingContract):
            return streaming_profile(contract)
        return offline_profile(contract.mels, contract.bucket_frames, contract.max_batch_size)

    def difference(self, runner: PlanRunner) -> float:
        """Largest difference of log-probabilities between a plan and ONNX Runtime on the graph."""
        graph = self.folder / file_names.GRAPH
        if isinstance(self.contract, StreamingContract):
            return streaming_difference(runner, graph, self.contract)
        return offline_difference(runner, graph, self.shapes())


def encoders(repository: Path) -> list[Encoder]:
    """Every encoder that ``repository`` holds, offline and streaming. UserError where there is no folder."""
    if not repository.is_dir():
        raise UserError(f"no model repository at {repository}: fill it with python export/to_triton.py")
    folder = repository / tensors.ENCODER / "1"
    found = [Encoder(folder, Contract.load(folder))] if folder.is_dir() else []
    for folder in sorted(repository.glob(f"{tensors.STREAM_ENCODER}*/1")):
        look_ahead = folder.parent.name.removeprefix(tensors.STREAM_ENCODER)
        if not look_ahead or look_ahead.removeprefix("_").isdigit():
            found.append(Encoder(folder, StreamingContract.load(folder)))
    return found


def unplanned(found: list[Encoder]) -> str | None:
    """Say why a repository with these encoders takes no plan at all; None when one takes one."""
    if not found:
        return "it holds no encoder"
    if all(encoder.contract.target != "tensorrt" for encoder in found):
        return "; ".join(f"{encoder.name} was exported for {encoder.contract.target}" for encoder in found)
    return None


def fits(encoder: Encoder) -> bool:
    """True when the plan of ``encoder`` can serve on this machine."""
    try:
        check_plan(encoder.folder, encoder.contract.onnx_sha256)
    except UserError:
        return False
    return True


def plan_encoder(encoder: Encoder, limit: float | None = None) -> PlanRecord:
    """Build, compare and publish the plan of one exported encoder. UserError when it is not good enough."""
    contract, graph = encoder.contract, encoder.folder / file_names.GRAPH
    if not graph.is_file() or sha256(graph) != contract.onnx_sha256:
        raise UserError(f"{graph} is not the graph of its contract: export the model again")
    trt = load_tensorrt()
    gpu, capability = gpu_name(), compute_capability()
    if gpu is None or capability is None:
        raise UserError("no NVIDIA GPU answers here: build the plan on the machine that will serve it")
    version = ".".join(trt.__version__.split(".")[:3])
    shapes = encoder.shapes()
    print(f"{encoder.name}: building for TensorRT {version} on {gpu}: {shapes} (minutes)")
    started = time.monotonic()
    serialized = build_plan(trt, graph, shapes)
    difference = encoder.difference(PlanRunner(trt, serialized))
    limit = LIMITS[contract.precision] if limit is None else limit
    seconds = time.monotonic() - started
    print(f"built in {seconds:.0f} s; against ONNX Runtime {difference:.1e} (limit {limit:g})")
    if not difference <= limit:
        far = f"differs from the graph by {difference:.2g}, over {limit:g}"
        raise UserError(f"the plan of {encoder.name} {far}: not written")
    record = PlanRecord(contract.onnx_sha256, version, gpu, capability, difference)
    save_plan(encoder.folder, serialized, record)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repository", type=Path, default=ROOT / "triton", help="default triton/")
    parser.add_argument("--if-needed", action="store_true", help="leave plans that fit; end well without any")
    parser.add_argument("--limit", type=float, help=f"largest log-probability difference (default {LIMITS})")
    options = parser.parse_args()
    found = encoders(options.repository)
    if reason := unplanned(found):
        if not options.if_needed:
            raise UserError(f"{options.repository}: {reason}; export it with target=tensorrt first")
        print(f"{options.repository}: {reason}, no plan is needed")
        return
    for encoder in found:
        if encoder.contract.target != "tensorrt":
            print(f"{encoder.name} was exported for {encoder.contract.target}, no plan is needed")
        elif options.if_needed and fits(encoder):
            print(f"{encoder.name}: its plan fits this machine, no plan is needed")
        else:
            plan_encoder(encoder, options.limit)
            print(f"wrote {encoder.folder / file_names.PLAN} and {file_names.PLAN_RECORD}")
    print(f"next: tritonserver --model-repository {options.repository}")


if __name__ == "__main__":
    run_main(main)
