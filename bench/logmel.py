"""Time the log-mel front ends beside NeMo's own, one thread each, and compare their features:

    python bench/logmel.py [--repetitions 100] [--rounds 3] [--out bench/results/logmel.json]

Speech of 2, 5 and 15 s from espeak-ng with noise 40 dB below it. NeMo is AudioToMelSpectrogramPreprocessor at
inference with the settings of conf/fastconformer_ko.yaml (80 mels, normalised per feature). In every
repetition all run once, by turns, and the best counts, since other work on the machine only ever adds time.
"ours, the graph" is that of front_end=graph on ONNX Runtime's CPU provider. Its transform is a matrix
product, for GPUs; what it costs here is why front_end=numpy is the default.
The same file is run once more a round by the server's Python (.server), whose numpy is an older one.
Differences are of the features before normalisation, in nats; normalised ones have no unit.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.runtime.log_mel import LogMel
from ko_asr.serving.server import PROCESS_SETTINGS

ROOT = Path(__file__).parent.parent
SERVER_PYTHON = ROOT / ".server" / "venv" / "bin" / "python"
SECONDS = (2, 5, 15)
OURS, SERVER, GRAPH, NEMO = "ours", "ours, the server's numpy", "ours, the graph", "NeMo"


def clips() -> list[np.ndarray]:
    from ko_asr.audio.espeak import synthesize

    spoken = np.concatenate([synthesize("오늘은 날씨가 정말 좋아서 친구와 함께 산책을 갔습니다")] * 8)
    noise = 0.01 * np.random.default_rng(0).normal(0, np.std(spoken), len(spoken))
    return [(spoken + noise)[: n * SAMPLE_RATE].astype(np.float32) for n in SECONDS]


def nemo_preprocessor(normalize: str) -> Any:
    import torch
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    torch.set_num_threads(1)
    settings = {"window_size": 0.025, "window_stride": 0.01, "window": "hann", "features": 80, "n_fft": 512}
    return AudioToMelSpectrogramPreprocessor(normalize=normalize, dither=0.0, pad_to=0, **settings).eval()


def nemo_features(preprocessor: Any, audio: np.ndarray) -> np.ndarray:
    import torch

    with torch.inference_mode():
        signal, length = torch.from_numpy(audio)[None], torch.tensor([len(audio)])
        features, frames = preprocessor(input_signal=signal, length=length)
    return features[0, :, : frames[0]].numpy()


def graph_front_end(log_mel: LogMel, path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Make the front end as a graph: samples [n] to features [mels, frames], through one thread."""
    import onnxruntime

    from ko_asr.export.log_mel import export_offline_log_mel
    from ko_asr.runtime import tensors

    export_offline_log_mel(log_mel, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def features(audio: np.ndarray) -> np.ndarray:
        padded = np.zeros((1, (log_mel.frames(len(audio)) + 1) * log_mel.hop), np.float32)
        padded[0, : len(audio)] = audio
        samples = np.array([[len(audio)]], np.int64)
        return session.run([tensors.FEATURES], {tensors.PADDED_AUDIO: padded, tensors.SAMPLES: samples})[0][0]

    return features


def best_seconds(cases: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Time the fastest run of each case; they take turns."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(repetitions):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def run_front_end(folder: Path, repetitions: int) -> None:
    """Time the clips of ``folder`` in the server's Python and leave their features there."""
    front_end = LogMel.load(folder / "front_end.npz")
    with np.load(folder / "clips.npz") as audio:
        best = [best_seconds({"": lambda a=audio[k]: front_end(a)}, repetitions)[""] for k in audio.files]
        raw = LogMel.load(folder / "raw.npz")
        np.savez(folder / "features.npz", *[raw(audio[k]) for k in audio.files])
    print(json.dumps({"numpy": np.__version__, "seconds": best}))


def in_server_python(folder: Path, repetitions: int) -> dict:
    command = [str(SERVER_PYTHON), __file__, "--front-end", str(folder), "--repetitions", str(repetitions)]
    environment = os.environ | PROCESS_SETTINGS | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, encoding="utf-8")
    return json.loads(done.stdout)


def measure(repetitions: int, rounds: int) -> dict:
    """Measure microseconds an audio second of each case by clip, and the largest differences to NeMo."""
    from threadpoolctl import threadpool_limits

    from ko_asr.models.front_end import log_mel_of

    nemo, nemo_raw = nemo_preprocessor("per_feature"), nemo_preprocessor("NA")
    ours, raw = (log_mel_of(SimpleNamespace(preprocessor=each)) for each in (nemo, nemo_raw))
    audio, best = clips(), {name: [float("inf")] * len(SECONDS) for name in (OURS, SERVER, GRAPH, NEMO)}
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        folder = Path(name)
        ours.save(folder / "front_end.npz")
        raw.save(folder / "raw.npz")
        np.savez(folder / "clips.npz", *audio)
        graph, raw_graph = (graph_front_end(each, folder / "logmel.onnx") for each in (ours, raw))
        for _ in range(rounds):
            for i, clip in enumerate(audio):
                cases: dict[str, Callable[[], object]] = {
                    OURS: lambda c=clip: ours(c),
                    GRAPH: lambda c=clip: graph(c),
                    NEMO: lambda c=clip: nemo_features(nemo, c),
                }
                for case, seconds in best_seconds(cases, repetitions).items():
                    best[case][i] = min(best[case][i], seconds)
            server = in_server_python(folder, repetitions)
            best[SERVER] = [min(pair) for pair in zip(best[SERVER], server["seconds"], strict=True)]
        with np.load(folder / "features.npz") as features:
            served = [features[k] for k in features.files]
    unnormalised = [nemo_features(nemo_raw, clip) for clip in audio]
    differences = {
        OURS: _furthest(map(raw, audio), unnormalised),
        SERVER: _furthest(served, unnormalised),
        GRAPH: _furthest(map(raw_graph, audio), unnormalised),
        "ours, normalised": _furthest(map(ours, audio), (nemo_features(nemo, clip) for clip in audio)),
    }
    return {
        "clip_seconds": SECONDS,
        "server_numpy": server["numpy"],
        "microseconds_per_audio_second": {
            case: [1e6 * t / s for t, s in zip(times, SECONDS, strict=True)] for case, times in best.items()
        },
        "time_to_nemo": {
            c: [t / n for t, n in zip(best[c], best[NEMO], strict=True)] for c in (OURS, SERVER, GRAPH)
        },
        "graph_to_numpy": [t / n for t, n in zip(best[GRAPH], best[OURS], strict=True)],
        "largest_difference_to_nemo": differences,
    }


def _furthest(ours: Any, theirs: Any) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def report(figures: dict) -> None:
    print(f"{'one thread, us an audio second':32}" + "".join(f"{s:>6} s" for s in SECONDS))
    for case, times in figures["microseconds_per_audio_second"].items():
        print(f"{case:32}" + "".join(f"{t:>8.0f}" for t in times))
    for case, ratios in figures["time_to_nemo"].items():
        print(f"{case + ' / NeMo':32}" + "".join(f"{r:>8.2f}" for r in ratios))
    print(f"{'the graph / numpy':32}" + "".join(f"{r:>8.2f}" for r in figures["graph_to_numpy"]))
    for case, difference in figures["largest_difference_to_nemo"].items():
        print(f"largest difference to NeMo, {case}: {difference:.1e}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=100, help="of each clip a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/logmel.json"))
    parser.add_argument("--front-end", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.front_end:
        run_front_end(args.front_end, args.repetitions)
        return
    if not SERVER_PYTHON.exists():
        raise UserError(f"no server environment at {SERVER_PYTHON}: run make setup-server")
    figures = measure(args.repetitions, args.rounds)
    report(figures)
    result = {"provenance": provenance(("numpy", "onnxruntime", "torch", "nemo_toolkit")), **figures}
    result["load_average"] = os.getloadavg()
    with atomic_write(args.out) as stream:
        json.dump(result, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
