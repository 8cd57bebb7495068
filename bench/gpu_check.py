"""What this model does on this machine's NVIDIA GPU: latency, throughput, memory, an hour of audio.

    python bench/gpu_check.py                                     # size l, random weights
    python bench/gpu_check.py --model experiments/ko/checkpoints/ko.nemo --out bench/results/gpu_a10.json

Measures whatever is installed: PyTorch (float32 with TF32, float16), ONNX Runtime with its CUDA provider
(onnxruntime-gpu), TensorRT (fp32 and fp16 plans, built here). Every figure is the encoder with its CTC head,
features in host memory, answers back in host memory. The hour goes through PyTorch once in pieces of a minute
and once whole, with local attention of 128 frames to each side. Writes JSON with versions.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr import plan
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["torch", "nemo_toolkit", "onnxruntime-gpu", "onnxruntime", "tensorrt", "ko-asr"]
MEMORY_LIMIT = 8.0  # GB, the project's own for an hour of audio

Run = Callable[[dict[str, np.ndarray]], Any]


def memory_used() -> float:
    """GB in use on the first GPU, by every process, as nvidia-smi counts."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]) / 1024


def feed(batch: int, mels: int, seconds: float) -> dict[str, np.ndarray]:
    """Random features [batch, mels, frames] and their lengths [batch, 1], 100 frames a second."""
    frames = round(100 * seconds)
    features = np.random.default_rng(0).standard_normal((batch, mels, frames)).astype(np.float32)
    return {"features": features, "length": np.full((batch, 1), frames, np.int64)}


def timed(run: Run, shapes: list[tuple[int, float]], mels: int, repeats: int) -> list[dict[str, float]]:
    """Median and 99th percentile latency, and RTFx, of each (batch, seconds)."""
    rows = []
    for batch, seconds in shapes:
        inputs = feed(batch, mels, seconds)
        for _ in range(3):
            run(inputs)
        times = []
        for _ in range(repeats):
            started = time.perf_counter()
            run(inputs)
            times.append(time.perf_counter() - started)
        middle = statistics.median(times)
        rows.append(
            {
                "batch": batch,
                "seconds": seconds,
                "p50_ms": 1000 * middle,
                "p99_ms": 1000 * float(np.percentile(times, 99)),
                "rtfx": batch * seconds / middle,
                "memory_gb": memory_used(),
            }
        )
    return rows


def pytorch(model: Any, half: bool) -> Run:
    """NeMo's own encoder and head on the GPU."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = model.cuda().eval()

    @torch.inference_mode()
    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        features = torch.from_numpy(inputs["features"]).cuda()
        length = torch.from_numpy(inputs["length"][:, 0]).cuda()
        with torch.autocast("cuda", torch.float16, enabled=half):
            encoded, _ = model.encoder(audio_signal=features, length=length)
            return model.decoder(encoder_output=encoded).argmax(-1).cpu().numpy()

    return run


def onnxruntime_cuda(graph: Path) -> Run | None:
    """Our graph on ONNX Runtime's CUDA provider, None where that is not installed."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return None
    session = onnxruntime.InferenceSession(str(graph), providers=["CUDAExecutionProvider"])
    if "CUDAExecutionProvider" not in session.get_providers():
        return None  # the wheel is there, but not the CUDA or cuDNN that it loads
    return lambda inputs: session.run(["token_ids", "token_log_probs", "encoded_length"], inputs)


def tensorrt(graph: Path, mels: int, seconds: float, largest: int) -> tuple[Run, float]:
    """A plan of ``graph`` and its largest difference from ONNX Runtime; UserError when it cannot be built."""
    trt = plan.load_tensorrt()
    shapes = plan.profile(mels, [32, round(100 * seconds)], largest)
    runner = plan.Runner(trt, plan.build_plan(trt, graph, shapes))
    return runner, plan.largest_difference(runner, graph, shapes)


def an_hour(model: Any, mels: int) -> dict[str, dict[str, float]]:
    """Wall time and peak memory of PyTorch, float16, for an hour in pieces of a minute and for it whole."""
    import torch

    results = {}
    for name, batches in (
        ("pieces of 60 s, 8 at once", [(8, 60.0)] * 7 + [(4, 60.0)]),
        ("whole", [(1, 3600.0)]),
    ):
        if name == "whole":
            model.change_attention_model("rel_pos_local_attn", [128, 128])
        run = pytorch(model, half=True)
        torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        for batch, seconds in batches:
            run(feed(batch, mels, seconds))
        peak = torch.cuda.max_memory_allocated() / 2**30
        results[name] = {
            "seconds": time.perf_counter() - started,
            "peak_gb": peak,
            "within_8_gb": float(peak <= MEMORY_LIMIT),
        }
    return results


def measure(options: argparse.Namespace, path: Path, folder: Path) -> dict[str, Any]:
    from ko_asr.onnx_export import export_encoder, load_model

    model = load_model(path)
    mels = int(model.preprocessor.featurizer.nfilt)
    shapes = [(batch, options.seconds) for batch in options.batches]
    results: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        results[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)

    for half in (False, True):
        graph = folder / f"{'fp16' if half else 'fp32'}.onnx"
        export_encoder(model.cpu(), graph, 6000, half)
        if importlib.util.find_spec("tensorrt") is None:
            note(f"TensorRT {graph.stem}", "not installed")
        else:
            run, difference = tensorrt(graph, mels, options.seconds, max(options.batches))
            note(f"TensorRT {graph.stem}", timed(run, shapes, mels, options.repeats))
            note(f"TensorRT {graph.stem}, against ONNX Runtime", difference)
        cuda = onnxruntime_cuda(graph)
        rows = "no CUDA provider" if cuda is None else timed(cuda, shapes, mels, options.repeats)
        note(f"ONNX Runtime CUDA {graph.stem}", rows)
        note(f"PyTorch {graph.stem}", timed(pytorch(model, half), shapes, mels, options.repeats))
    note("an hour of audio, PyTorch fp16", an_hour(model, mels))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="a .nemo (default: random weights of --size)")
    add("--size", default="l", help="xs, s, m or l (default l)")
    add("--seconds", type=float, default=10.0, help="length of a clip, at most 60 (default 10)")
    add("--batches", type=int, nargs="+", default=[1, 8, 32], help="batch sizes (default 1 8 32)")
    add("--repeats", type=int, default=50)
    add("--out", type=Path, default=ROOT / "results" / "gpu_check.json")
    options = parser.parse_args()
    gpu = plan.gpu_name()
    if gpu is None:
        raise UserError("no NVIDIA GPU answers on this machine: run this where nvidia-smi names one")
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            f"{gpu} is there, but this PyTorch ({torch.__version__}) has no CUDA: install one that has"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = options.model or Path(folder) / "random.nemo"
        if options.model is None:
            script = ROOT / "bench" / "random_model.py"
            command = [sys.executable, str(script), "--size", options.size, "--out", str(path)]
            subprocess.run(command, check=True, capture_output=True)
        results = measure(options, path, Path(folder))
    facts = {"gpu": gpu, "compute_capability": plan.compute_capability(), "model": path.name}
    weights = "random" if options.model is None else "trained"
    with atomic_write(options.out) as stream:
        json.dump(provenance(PACKAGES) | facts | {"weights": weights, "results": results}, stream, indent=1)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    run_main(main)
