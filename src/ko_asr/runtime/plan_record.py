"""The record beside a TensorRT plan, and the check that the plan can serve here."""

import contextlib
import ctypes
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ko_asr.errors import UserError
from ko_asr.runtime import file_names
from ko_asr.runtime.driver import compute_capability

REBUILD = "run python export/build_plan.py on this machine"


@dataclass(frozen=True)
class PlanRecord:
    """The graph that a plan was built from, and the library and GPU that built it."""

    onnx_sha256: str
    tensorrt: str
    gpu: str
    compute_capability: str
    largest_difference: float


def save_plan(folder: Path, serialized: bytes, record: PlanRecord) -> None:
    """Write plan and record into a model version's folder; the record last, so that half of it is no plan."""
    (folder / file_names.PLAN_RECORD).unlink(missing_ok=True)
    for name, data in (
        (file_names.PLAN, serialized),
        (file_names.PLAN_RECORD, json.dumps(asdict(record), indent=1).encode()),
    ):
        temporary = folder / f".{name}.tmp"
        temporary.write_bytes(data)
        os.replace(temporary, folder / name)


def check_plan(folder: Path, onnx_sha256: str) -> None:
    """Refuse a plan that cannot serve here: absent, of another graph, TensorRT version or kind of GPU.

    UserError, one sentence. Where the library or the driver cannot be asked, TensorRT itself judges.
    """
    try:
        record = PlanRecord(**json.loads((folder / file_names.PLAN_RECORD).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder} holds no finished TensorRT plan: {REBUILD}") from error
    if not (folder / file_names.PLAN).is_file():
        raise UserError(f"{folder} holds no {file_names.PLAN}: {REBUILD}")
    here = {
        "graph": (record.onnx_sha256[:12], onnx_sha256[:12]),
        "TensorRT": (record.tensorrt, library_version()),
        "compute capability": (record.compute_capability, compute_capability()),
    }
    for what, (built, found) in here.items():
        if found is not None and found != built:
            raise UserError(
                f"the TensorRT plan in {folder} was built for {what} {built}, here is {found}: {REBUILD}"
            )


def library_version() -> str | None:
    """Version of the libnvinfer that this process would load, such as "10.13.3"; None where there is none."""
    for major in (11, 10):
        with contextlib.suppress(OSError, AttributeError):
            number = int(ctypes.CDLL(f"libnvinfer.so.{major}").getInferLibVersion())
            return f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    return None
