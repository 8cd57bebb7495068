"""Fill a Triton model repository from a trained .nemo, after checking it against NeMo.

    python export/to_triton.py                                   # the newest .nemo under experiments/
    python export/to_triton.py --model experiments/ko/ko.nemo --repository triton/

Then: tritonserver --model-repository triton/

A full-context model becomes the ensemble asr, a cache-aware one asr_streaming; both fit into one repository.

    python export/to_triton.py model=experiments/ko_streaming/ko_streaming.nemo look_aheads=6,1,0

    python export/to_triton.py precision=int8 gate_manifest=data/ko/dev.jsonl        # a third faster on CPUs
    python export/to_triton.py target=tensorrt precision=fp16 gate_manifest=data/ko/dev.jsonl
    python export/to_triton.py target=tensorrt front_end=graph     # a GPU server: log-mel on the GPU as well

Both take either kind of model; a streaming one is judged chunk by chunk, with the states that it keeps.

Nothing is written unless the ONNX graph, the log-mel front end and the text decoding agree with NeMo, and a
lower precision costs no more than its limits on the gate manifest. target=tensorrt leaves the plans to
export/build_plan.py, in the serving container, where TensorRT is not importable here. Options may also be
written as key=value: `target=onnx`.
"""

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError, run_main
from ko_asr.export.command import export_options, offline_serving, parse, stream_serving
from ko_asr.models.nemo_file import check_nemo_file, newest_model

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"
TEMPLATES = ROOT / "export" / "models"


def shown(path: Path) -> str:
    """``path`` from the working folder when it lies below, else as it is."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def show_memory(measured: Callable[[], str]) -> None:
    """Print what an encoder process takes. The export is whole without it: this machine may be too small."""
    try:
        print(measured())
    except UserError as error:
        print(f"memory of an encoder process: not measured, because {error}")


def export_offline(model: Any, path: Path, options: argparse.Namespace) -> str:
    """Export a full-context model; its models' names, for the last message."""
    from ko_asr.export.memory import offline_memory
    from ko_asr.export.offline.publish import MODEL_CARD, publish_offline

    wanted, serving = export_options(options, model), offline_serving(options)
    print("against NeMo, largest difference:")
    contract = publish_offline(model, path, options.repository, serving, TEMPLATES, wanted)
    print(f"model card: {shown(options.repository)}/{MODEL_CARD}")
    if options.target == "onnx":
        show_memory(lambda: offline_memory(options.repository, contract, serving))
    return f" ({', '.join(sorted(contract.models))})"


def export_streams(model: Any, path: Path, options: argparse.Namespace) -> str:
    """Export the look-aheads of a cache-aware model; the last message names none of them."""
    from ko_asr.export.figures import show_look_aheads
    from ko_asr.export.memory import streaming_memory
    from ko_asr.export.streaming.publish import publish_look_aheads

    wanted, serving = export_options(options, model), stream_serving(options)
    contracts = publish_look_aheads(model, path, options.repository, serving, TEMPLATES, wanted)
    show_look_aheads(contracts)
    if options.target == "onnx":
        show_memory(lambda: streaming_memory(options.repository, contracts[0], serving))
    return ""


def build_plan(options: argparse.Namespace) -> None:
    """Build the plans of target=tensorrt where that is possible, and print what comes next."""
    place = shown(options.repository)
    command = [str(ROOT / "export" / "build_plan.py"), "--if-needed", "--repository", str(options.repository)]
    if options.target == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        print("no TensorRT here: the ensemble refuses to start until the plan is built")
        print(f"next, in the serving container: python export/build_plan.py --repository {place}/")
        return
    if options.target == "tensorrt" and subprocess.run([sys.executable, *command], check=False).returncode:
        raise UserError(f"{place}/ is exported, but not every plan could be built: see above")
    print(f"next: tritonserver --model-repository {place}/")


def main() -> None:
    options = parse(sys.argv[1:], __doc__, ROOT / "triton")
    path = options.model or newest_model(EXPERIMENTS)
    check_nemo_file(path)
    print(f"exporting {shown(path)}" + ("" if options.model else f" (the newest under {EXPERIMENTS.name}/)"))
    from ko_asr.export.streaming.publish import is_cache_aware
    from ko_asr.models.nemo_file import load_exportable_model
    from ko_asr.serving.staging import staging

    started = time.monotonic()
    with staging(options.repository):  # a folder that cannot be written is found before the model is read
        model = load_exportable_model(path)
    names = (export_streams if is_cache_aware(model) else export_offline)(model, path, options)
    print(f"wrote {shown(options.repository)}/{names} in {time.monotonic() - started:.0f} s")
    build_plan(options)


if __name__ == "__main__":
    run_main(main)
