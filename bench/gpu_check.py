"""Measure these models on this machine's NVIDIA GPU: latency, throughput, memory, streams, an hour of audio.

    python bench/gpu_check.py                                     # size l, random weights
    python bench/gpu_check.py --model experiments/ko/checkpoints/ko.nemo --out bench/results/gpu_a10.json

Measures whatever is installed: PyTorch (float32 with TF32, float16), ONNX Runtime with its CUDA provider
(onnxruntime-gpu), TensorRT (fp32 and fp16 plans, built here). Offline figures are the encoder with its CTC
head, features in host memory, answers back in host memory. Streaming figures are chunks of as many streams,
in step, their states staying on the GPU as they do in a server. The hour goes through PyTorch once in pieces
of a minute and once whole, with local attention of 128 frames to each side. Writes JSON with versions.

--rehearse does the same on the CPU, briefly and with a small model, where there is no GPU: it shows that the
script works, TensorRT and CUDA aside, and its figures mean nothing.
"""

import argparse
import contextlib
import importlib.util
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from random_model import write_model

from ko_asr.errors import UserError, run_main
from ko_asr.export.offline.plan import offline_difference, offline_profile
from ko_asr.export.streaming.plan import streaming_difference, streaming_profile
from ko_asr.export.tensorrt import PlanRunner, build_plan, load_tensorrt
from ko_asr.files import atomic_write
from ko_asr.models.device import check_usable
from ko_asr.provenance import provenance
from ko_asr.runtime.driver import compute_capability, gpu_name
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import (
    ENCODED_LENGTH,
    FEATURES,
    LENGTH,
    STATE_INPUTS,
    STATE_OUTPUTS,
    TOKEN_IDS,
    TOKEN_LOG_PROBS,
)

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ["torch", "nemo_toolkit", "onnxruntime-gpu", "onnxruntime", "tensorrt", "ko-asr"]
MEMORY_LIMIT = 8.0  # GB, the project's own for an hour of audio
ANSWERS = (TOKEN_IDS, TOKEN_LOG_PROBS, ENCODED_LENGTH)

Tensors = Mapping[str, np.ndarray]
Run = Callable[[dict[str, np.ndarray]], Any]


class Check:
    """Settings and findings of one run: where it computes and how often."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = "cpu" if options.rehearse else "cuda"
        self.results: dict[str, Any] = {}

    def note(self, name: str, value: Any) -> None:
        """Keep a figure, and print it at once."""
        self.results[name] = value
        print(f"{name}: {json.dumps(value)}", flush=True)

    def memory_used(self) -> float | None:
        """Return the GB in use on the first GPU, by every process, by nvidia-smi's count."""
        if self.device == "cpu":
            return None
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
        found = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        return int(found.split()[0]) / 1024

    def times(self, run: Callable[[], Any]) -> dict[str, Any]:
        """Time a call: median and 99th percentile in ms after three unmeasured ones, and the memory then."""
        seconds = []
        for repeat in range(-3, self.options.repeats):
            started = time.perf_counter()
            run()
            if repeat >= 0:
                seconds.append(time.perf_counter() - started)
        return {
            "p50_ms": 1000 * statistics.median(seconds),
            "p99_ms": 1000 * float(np.percentile(seconds, 99)),
            "memory_gb": self.memory_used(),
        }

    def offline(self, run: Run, mels: int) -> list[dict[str, Any]]:
        """Measure latency and RTFx of each batch size."""
        rows, seconds = [], self.options.seconds
        for batch in self.options.batches:
            inputs = feed(batch, mels, seconds)
            times = self.times(lambda inputs=inputs: run(inputs))
            rtfx = 1000 * batch * seconds / times["p50_ms"]
            rows.append({"batch": batch, "seconds": seconds, "rtfx": rtfx, **times})
        return rows

    def streaming(
        self, start: Callable[[Tensors], Callable[[], Any]], contract: StreamingContract
    ) -> list[dict[str, Any]]:
        """Measure the latency of a chunk of so many streams, and the streams one GPU follows in real time."""
        rows = []
        for streams in self.options.streams:
            times = self.times(start(chunk(contract, streams)))
            followed = streams * 1000 * contract.chunk_seconds / times["p50_ms"]
            rows.append(
                {"batch": streams, "chunk_ms": 1000 * contract.chunk_seconds, "streams": followed, **times}
            )
        return rows


def feed(batch: int, mels: int, seconds: float) -> dict[str, np.ndarray]:
    """Make random features [batch, mels, frames] and their lengths [batch, 1], 100 frames a second."""
    frames = round(100 * seconds)
    features = np.random.default_rng(0).standard_normal((batch, mels, frames)).astype(np.float32)
    return {FEATURES: features, LENGTH: np.full((batch, 1), frames, np.int64)}


def chunk(contract: StreamingContract, streams: int) -> dict[str, np.ndarray]:
    """Make the first chunk of so many streams, their states among the tensors."""
    window = contract.window_frames
    features = np.random.default_rng(0).normal(-6, 3, (streams, contract.mels, window)).astype(np.float32)
    states = {
        state["input"]: np.zeros([streams, *state["shape"]], state["dtype"]) for state in contract.states
    }
    return {FEATURES: features, LENGTH: np.full((streams, 1), window, np.int64), **states}


def pytorch(model: Any, half: bool, device: str) -> Run:
    """Return NeMo's own encoder and head."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    model = model.to(device).eval()

    @torch.inference_mode()
    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        features = torch.from_numpy(inputs[FEATURES]).to(device)
        length = torch.from_numpy(inputs[LENGTH][:, 0]).to(device)
        with torch.autocast(device, torch.float16, enabled=half):
            encoded, _ = model.encoder(audio_signal=features, length=length)
            return model.decoder(encoder_output=encoded).argmax(-1).cpu().numpy()

    return run


def onnxruntime_session(graph: Path, device: str) -> Any:
    """Open ``graph`` on ONNX Runtime, None where its provider for ``device`` is not installed."""
    import onnxruntime

    provider = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        return None
    session = onnxruntime.InferenceSession(str(graph), providers=[provider])
    # The wheel may be there without the CUDA or cuDNN that it loads.
    return session if provider in session.get_providers() else None


def resident_session(session: Any, device: str, inputs: Tensors) -> Callable[[], Any]:
    """Return a call that computes the next chunk on ONNX Runtime; the states stay on ``device``."""
    import onnxruntime

    value = onnxruntime.OrtValue.ortvalue_from_numpy
    states = [value(inputs[name], device, 0) for name in STATE_INPUTS]

    def step() -> list[np.ndarray]:
        binding = session.io_binding()
        for name in (FEATURES, LENGTH):
            binding.bind_cpu_input(name, inputs[name])
        for name, state in zip(STATE_INPUTS, states, strict=True):
            binding.bind_ortvalue_input(name, state)
        for name in ANSWERS:
            binding.bind_output(name, "cpu")
        for name in STATE_OUTPUTS:
            binding.bind_output(name, device)
        session.run_with_iobinding(binding)
        outputs = binding.get_outputs()
        states[:] = outputs[len(ANSWERS) :]
        return [output.numpy() for output in outputs[: len(ANSWERS)]]

    return step


def resident_plan(
    runner: PlanRunner, memory: contextlib.ExitStack, inputs: Tensors
) -> Callable[[], list[np.ndarray]]:
    """Return a call for the next chunk of a plan; states stay on the GPU until ``memory`` is closed."""
    context = runner.context
    after = dict(zip(STATE_INPUTS, STATE_OUTPUTS, strict=True))
    places: dict[str, int] = {}
    for name, tensor in inputs.items():
        if not context.set_input_shape(name, tensor.shape):
            raise UserError(f"the plan's profile does not hold {name} {tensor.shape}")
        for needed in (name, after.get(name)):
            if needed:
                places[needed] = memory.enter_context(runner.memory(tensor.nbytes))
        runner.copy(places[name], tensor.ctypes.data, tensor.nbytes, 1)
    outputs: dict[str, np.ndarray] = {}
    for index in range(runner.engine.num_io_tensors):
        name = runner.engine.get_tensor_name(index)
        if name not in places:
            dtype = runner.trt.nptype(runner.engine.get_tensor_dtype(name))
            outputs[name] = np.empty(tuple(context.get_tensor_shape(name)), dtype)
            places[name] = memory.enter_context(runner.memory(outputs[name].nbytes))

    def step() -> list[np.ndarray]:
        for name in (FEATURES, LENGTH):
            runner.copy(places[name], inputs[name].ctypes.data, inputs[name].nbytes, 1)
        for name, place in places.items():
            context.set_tensor_address(name, place)
        runner.execute()
        for name in ANSWERS:
            runner.copy(outputs[name].ctypes.data, places[name], outputs[name].nbytes, 2)
        for before, later in after.items():
            places[before], places[later] = places[later], places[before]
        return [outputs[name] for name in ANSWERS]

    return step


def an_hour(check: Check, model: Any, mels: int) -> dict[str, dict[str, Any]]:
    """Measure PyTorch's wall time and peak memory, float16, for an hour in minutes and for it whole."""
    import torch

    minute = check.options.hour / 60  # of an hour of 3600 s, 60 s
    results = {}
    for name, batches in (
        ("in 60 pieces, 8 at once", [(8, minute)] * 7 + [(4, minute)]),
        ("whole", [(1, check.options.hour)]),
    ):
        if name == "whole":
            model.change_attention_model("rel_pos_local_attn", [128, 128])
        run = pytorch(model, check.device == "cuda", check.device)
        if check.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        started = time.perf_counter()
        for batch, seconds in batches:
            run(feed(batch, mels, seconds))
        results[name] = {"audio_seconds": check.options.hour, "seconds": time.perf_counter() - started}
        if check.device == "cuda":
            peak = torch.cuda.max_memory_allocated() / 2**30
            results[name] |= {"peak_gb": peak, "within_8_gb": peak <= MEMORY_LIMIT}
    return results


def measure_offline(check: Check, path: Path, folder: Path) -> None:
    from ko_asr.export.offline.graph import export_encoder
    from ko_asr.models.nemo_file import load_exportable_model

    model = load_exportable_model(path)
    mels, largest = int(model.preprocessor.featurizer.nfilt), max(check.options.batches)
    for half in (False,) if check.options.rehearse else (False, True):
        kind = "fp16" if half else "fp32"
        graph = folder / f"{kind}.onnx"
        export_encoder(model.cpu(), graph, 6000, half)
        if importlib.util.find_spec("tensorrt") is None:
            check.note(f"TensorRT {kind}", "not installed")
        else:
            trt = load_tensorrt()
            shapes = offline_profile(mels, [32, round(100 * check.options.seconds)], largest)
            runner = PlanRunner(trt, build_plan(trt, graph, shapes))
            check.note(f"TensorRT {kind}", check.offline(runner, mels))
            difference = offline_difference(runner, graph, shapes)
            check.note(f"TensorRT {kind}, against ONNX Runtime", difference)
        session = onnxruntime_session(graph, check.device)
        check.note(
            f"ONNX Runtime {check.device} {kind}",
            "no such provider"
            if session is None
            else check.offline(lambda inputs, session=session: session.run(ANSWERS, inputs), mels),
        )
        check.note(f"PyTorch {kind}", check.offline(pytorch(model, half, check.device), mels))
    check.note("an hour of audio, PyTorch", an_hour(check, model, mels))


def measure_streaming(check: Check, path: Path, folder: Path) -> None:
    """Measure each look-ahead of the model that was asked for, in fp32 and fp16."""
    from ko_asr.export.streaming.graph import StreamingCTC, export_graph, streaming_graph
    from ko_asr.models.nemo_file import load_exportable_model

    model = load_exportable_model(path)
    for look_ahead in check.options.look_aheads:
        graph, contract = streaming_graph(model, path, look_ahead)
        contract = replace(contract, max_batch_size=max(check.options.streams))
        for half in (False,) if check.options.rehearse else (False, True):
            kind = f"[{contract.left},{look_ahead}] {'fp16' if half else 'fp32'}"
            if half:
                graph = StreamingCTC(model, look_ahead, contract.top_k, half=True).eval()
                contract = replace(contract, precision="fp16")
            file = folder / f"streaming_{look_ahead}_{half}.onnx"
            export_graph(graph, contract, file)
            if importlib.util.find_spec("tensorrt") is None:
                check.note(f"streams, TensorRT {kind}", "not installed")
            else:
                streams_of_a_plan(check, kind, file, contract)
            session = onnxruntime_session(file, check.device)
            check.note(
                f"streams, ONNX Runtime {check.device} {kind}",
                "no such provider"
                if session is None
                else check.streaming(
                    lambda inputs, session=session: resident_session(session, check.device, inputs), contract
                ),
            )


def streams_of_a_plan(check: Check, kind: str, graph: Path, contract: StreamingContract) -> None:
    trt = load_tensorrt()
    runner = PlanRunner(trt, build_plan(trt, graph, streaming_profile(contract)))
    with contextlib.ExitStack() as memory:
        rows = check.streaming(lambda inputs: resident_plan(runner, memory, inputs), contract)
    check.note(f"streams, TensorRT {kind}", rows)
    difference = streaming_difference(runner, graph, contract)
    check.note(f"streams, TensorRT {kind}, against ONNX Runtime", difference)


def check_gpu() -> str:
    """Return the GPU's name. UserError where none can be used."""
    gpu = gpu_name()
    if gpu is None:
        raise UserError(
            "no NVIDIA GPU answers on this machine: run this where nvidia-smi names one, "
            "or try the script out on the CPU with --rehearse"
        )
    check_usable("--rehearse")
    return gpu


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="an offline .nemo (default: random weights of --size)")
    add("--streaming-model", type=Path, help="a cache-aware .nemo (default: random weights of --size)")
    add("--size", default="l", help="xs, s, m or l (default l)")
    add("--seconds", type=float, default=10.0, help="length of a clip, at most 60 (default 10)")
    add("--batches", type=int, nargs="+", default=[1, 8, 32], help="clips at once (default 1 8 32)")
    add("--streams", type=int, nargs="+", default=[1, 32, 128], help="streams at once (default 1 32 128)")
    add("--look-aheads", type=int, nargs="+", default=[6, 1], help="of the streams (default 6 1)")
    add("--repeats", type=int, default=50)
    add("--rehearse", action="store_true", help="on the CPU, briefly: to see that the script works")
    add("--out", type=Path, help="default: results/gpu_check.json; a rehearsal writes none without it")
    options = parser.parse_args()
    if min(*options.batches, *options.streams, options.repeats) < 1 or not 0.32 <= options.seconds <= 60:
        parser.error("--batches, --streams and --repeats must be at least 1, --seconds 0.32 to 60")
    options.hour = 3600.0
    if options.rehearse:
        options.size, options.seconds, options.repeats, options.hour = "xs", 2.0, 2, 30.0
        options.batches, options.streams = [1, 2], [1, 2]
    elif options.out is None:
        options.out = ROOT / "results" / "gpu_check.json"
    return options


def main() -> None:
    options = parsed()
    facts = {"device": "CPU, a rehearsal: no figure means anything"}
    if not options.rehearse:
        facts = {"gpu": check_gpu(), "compute_capability": compute_capability() or "unknown"}
    check = Check(options)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        path = options.model or work / "random.nemo"
        streaming = options.streaming_model or work / "random_streaming.nemo"
        if options.model is None:
            write_model(path, options.size)
        if options.streaming_model is None:
            write_model(streaming, options.size, streaming=True)
        measure_offline(check, path, work)
        measure_streaming(check, streaming, work)
    facts |= {"model": path.name, "streaming_model": streaming.name}
    if options.out is None:
        print("rehearsed on the CPU: what needs no GPU works; nothing was written")
        return
    with atomic_write(options.out) as stream:
        json.dump(provenance(PACKAGES) | facts | {"results": check.results}, stream, indent=1)
        stream.write("\n")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    run_main(main)
