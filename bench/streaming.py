"""Measure the streams a core follows in real time, and compute per chunk.

    python bench/streaming.py
    python bench/streaming.py --written

32 streams in step, random weights of --size (8x subsampling, vocabulary 1,024), one core, one thread.
Streams a core = chunk seconds x streams / median compute of a chunk of all of them. Compared with the bare
graph on ONNX Runtime (no front end, no decoder), the served ensemble, NeMo's own cache-aware export on ONNX
Runtime, NeMo's CacheAwareCTCPipeline and sherpa-onnx, each with the same weights in a process of its own, in
turn. Of the ensemble, tritonserver, its models' processes, gRPC and the client share that one core.
What look-ahead costs in CER is bench/look_ahead.py's to measure. sherpa-onnx is installed into
.build/sherpa-onnx at first; a peer that cannot run is left out with its reason. Machines differ, and so do
minutes: trust the ratios.

--written compares the ensemble with itself: streams without and with the written form. Random weights say
hardly anything, so the tokens that the decoder gets are those of sentences full of numbers, a syllable in
160 ms, with pauses that end the utterances.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from processes import cpu_seconds

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance

ROOT = Path(__file__).resolve().parent
SHERPA, SHERPA_VERSION = ROOT.parent / ".build" / "sherpa-onnx", "2.0.1"
PEERS = ("engine", "ensemble", "bare graph", "NeMo export", "NeMo pipeline", "sherpa-onnx")
WRITTEN_PEERS = ("spoken", "written")  # the ensemble, whose streams talk
LOOK_AHEADS = (6, 1)
RATE, WARM_UP = 16_000, 3
Round = Callable[[np.ndarray], object]  # takes [streams, chunk samples], computes them


def prepare(folder: Path, size: str) -> None:
    """Write random weights, our graphs and NeMo's own export with the fields that sherpa-onnx reads."""
    from ko_asr.export.streaming.folder import export_look_ahead
    from ko_asr.models.nemo_file import load_exportable_model

    nemo = folder / "random.nemo"
    make = [sys.executable, str(ROOT / "random_model.py"), "--streaming", "--size", size, "--out", str(nemo)]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for look_ahead in LOOK_AHEADS:
        export_look_ahead(nemo, folder / str(look_ahead), look_ahead)
        export_as_nemo_does(load_exportable_model(nemo), folder / str(look_ahead), look_ahead)


def export_as_nemo_does(model: Any, folder: Path, look_ahead: int) -> None:
    import onnx

    encoder = model.encoder
    encoder.set_default_att_context_size([70, look_ahead])
    model.set_export_config({"decoder_type": "ctc", "cache_support": "True"})
    model.export(str(folder / "nemo.onnx"), onnx_opset_version=17)
    stream = encoder.streaming_cfg
    fields = {
        "vocab_size": len(model.decoder.vocabulary),
        "window_size": stream.chunk_size[1] + stream.pre_encode_cache_size[1],
        "chunk_shift": stream.shift_size[1],
        "normalize_type": "",
        "subsampling_factor": encoder.subsampling_factor,
        "cache_last_channel_dim1": len(encoder.layers),
        "cache_last_channel_dim2": stream.last_channel_cache_size,
        "cache_last_channel_dim3": encoder.d_model,
        "cache_last_time_dim1": len(encoder.layers),
        "cache_last_time_dim2": encoder.d_model,
        "cache_last_time_dim3": encoder.conv_context_size[0],
        "model_type": "EncDecCTCModelBPE",
        "version": "1",
        "model_author": "NeMo",
    }
    graph = onnx.load(str(folder / "nemo.onnx"))
    for key, value in fields.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, str(value)
    onnx.save(graph, str(folder / "nemo.onnx"))
    pieces = [*model.decoder.vocabulary, "<blk>"]
    lines = "".join(f"{piece} {index}\n" for index, piece in enumerate(pieces))
    (folder / "tokens.txt").write_text(lines, encoding="utf-8")


def engine(folder: Path, look_ahead: int, streams: int) -> Round:
    """Run ours in one process: log-mel, graph, greedy decoding with partial results."""
    from ko_asr.recognition.streaming import StreamingRecognizer

    recognizer = StreamingRecognizer.load(folder / str(look_ahead), max_batch=streams)
    sessions = [recognizer.open() for _ in range(streams)]

    def compute(audio: np.ndarray) -> None:
        for session, samples in zip(sessions, audio, strict=True):
            session.feed(samples)
        while recognizer.step():
            pass

    return compute


def ensemble(
    folder: Path, look_ahead: int, streams: int, talking: bool = False, options: str | None = None
) -> Round:
    """Run ours through clients: every stream sends its chunk over gRPC, all are answered before the next."""
    import tritonclient.grpc.aio as triton

    from ko_asr.client.protocol import StreamProtocol
    from ko_asr.client.streaming import Connection, StreamingClient, answer_outputs, request_arguments
    from ko_asr.serving.server import TritonServer
    from ko_asr.serving.streaming import StreamServing, write_stream_models

    repository = folder / f"triton_{look_ahead}"
    templates = ROOT.parent / "export" / "models"
    serving = StreamServing(max_streams=streams)
    shutil.rmtree(repository, ignore_errors=True)
    write_stream_models(repository, folder / str(look_ahead), look_ahead, serving, templates)
    if talking:
        let_talk(repository / "asr_streaming_decoder" / "1")
    server = TritonServer(repository, ROOT.parent / ".server").__enter__()  # it dies with this process
    with StreamingClient(server.url) as asking:
        sizes = asking.sizes()
    protocols = [StreamProtocol(sizes) for _ in range(streams)]
    loop = asyncio.new_event_loop()
    connection = Connection(server.url)

    async def connect() -> Any:
        return connection.connect(triton)

    client = loop.run_until_complete(connect())

    async def send(protocol: Any, samples: np.ndarray) -> None:
        protocol.feed(samples)
        while (request := protocol.request()) is not None:
            answer = await client.infer(**request_arguments(connection.model, request, options, RATE, 60.0))
            protocol.answered(request, answer_outputs(answer))

    async def send_all(audio: np.ndarray) -> None:
        await asyncio.gather(*map(send, protocols, audio))

    return lambda audio: loop.run_until_complete(send_all(audio))


TALK = """
LINE = {line}
heard = TritonPythonModel._frames


def said(self, request, frames):
    ids, log_probs = heard(self, request, frames)
    number, taken, _ = pb_utils.get_input_tensor_by_name(request, tensors.STREAM).as_numpy()[0]
    first = (int(taken) - 1) * self.contract.chunk + 37 * int(number)
    ids = ids.copy()
    ids[:, 0] = [LINE[(first + frame) % len(LINE)] for frame in range(frames)]
    return ids, log_probs


TritonPythonModel._frames = said
"""


def let_talk(decoder: Path) -> None:
    """Give the decoder's model folder a vocabulary of the syllables of spoken numbers, and sentences."""
    from ko_asr.finishing.data import load
    from ko_asr.runtime.file_names import STREAM_CONTRACT

    contract = json.loads((decoder / STREAM_CONTRACT).read_text(encoding="utf-8"))
    pieces, blank, line = ["<unk>"], contract["blank_id"], []
    for sentence in (rule["cases"][0][0] for rule in load("itn")["rules"]):
        for word in sentence.split():
            for piece in (f"▁{word[0]}", *word[1:]):
                if piece not in pieces:
                    pieces.append(piece)
                line += [pieces.index(piece), blank]
        line += [blank] * 8
    size = len(contract["vocabulary"]["pieces"])
    contract["vocabulary"]["pieces"] = pieces + [f"x{k}" for k in range(len(pieces), size)]
    (decoder / STREAM_CONTRACT).write_text(json.dumps(contract), encoding="utf-8")
    with (decoder / "model.py").open("a", encoding="utf-8") as model:
        model.write(TALK.format(line=line))


def spoken(folder: Path, look_ahead: int, streams: int) -> Round:
    return ensemble(folder, look_ahead, streams, talking=True)


def written(folder: Path, look_ahead: int, streams: int) -> Round:
    from ko_asr.finishing.options import FinishOptions
    from ko_asr.runtime.options import StreamOptions

    options = StreamOptions(written=FinishOptions()).to_json()
    return ensemble(folder, look_ahead, streams, talking=True, options=options)


def bare_graph(folder: Path, look_ahead: int, streams: int) -> Round:
    from ko_asr.export.streaming.backend import OnnxBackend

    backend = OnnxBackend.load(folder / str(look_ahead))
    contract = backend.contract
    features = np.random.default_rng(0).standard_normal((streams, contract.mels, contract.window_frames))
    features = features.astype(np.float32)
    length = np.full((streams, 1), contract.window_frames, np.int64)
    states = [backend.zeros(streams)]

    def compute(audio: np.ndarray) -> None:
        states[0] = backend.step(features, length, states[0])[1]

    return compute


def nemo_export(folder: Path, look_ahead: int, streams: int) -> Round:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    path = str(folder / str(look_ahead) / "nemo.onnx")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    value = onnxruntime.OrtValue.ortvalue_from_numpy
    names = [entry.name for entry in session.get_inputs()]
    fields = session.get_modelmeta().custom_metadata_map
    window = int(fields["window_size"])
    channel, last = (
        [int(fields[f"cache_last_{kind}_dim{n}"]) for n in (1, 2, 3)] for kind in ("channel", "time")
    )
    caches = [
        value(np.zeros([streams, *channel], np.float32)),
        value(np.zeros([streams, *last], np.float32)),
        value(np.zeros([streams], np.int64)),
    ]
    features = np.random.default_rng(0).standard_normal((streams, 80, window)).astype(np.float32)
    fixed = [value(features), value(np.full([streams], window, np.int64))]
    outputs = [entry.name for entry in session.get_outputs()]

    def compute(audio: np.ndarray) -> None:
        results = session.run_with_ort_values(outputs, dict(zip(names, [*fixed, *caches], strict=True)))
        results[0].numpy().argmax(axis=-1)
        caches[:] = results[-3:]

    return compute


def nemo_pipeline(folder: Path, look_ahead: int, streams: int) -> Round:
    from ko_asr.models.nemo_file import quiet_nemo

    quiet_nemo()
    import torch
    from nemo.collections.asr.inference.factory.pipeline_builder import PipelineBuilder
    from nemo.collections.asr.inference.streaming.framing.request import Frame
    from nemo.collections.asr.inference.streaming.framing.request_options import ASRRequestOptions
    from omegaconf import OmegaConf

    torch.set_num_threads(1)
    config = OmegaConf.load(ROOT / "nemo_pipeline.yaml")
    config.asr.model_name = str(folder / "random.nemo")
    config.streaming.att_context_size = [70, look_ahead]
    config.streaming.batch_size = config.streaming.num_slots = streams
    pipeline = PipelineBuilder.build_pipeline(config)
    pipeline.open_session()
    began = [False]

    def compute(audio: np.ndarray) -> None:
        frames = [
            Frame(
                samples=torch.from_numpy(samples),
                stream_id=number,
                is_first=not began[0],
                options=None if began[0] else ASRRequestOptions(),
            )
            for number, samples in enumerate(audio)
        ]
        began[0] = True
        pipeline.transcribe_step(frames)

    return compute


def sherpa_onnx(folder: Path, look_ahead: int, streams: int) -> Round:
    import sherpa_onnx as sherpa

    recognizer = sherpa.OnlineRecognizer.from_nemo_ctc(
        tokens=str(folder / str(look_ahead) / "tokens.txt"),
        model=str(folder / str(look_ahead) / "nemo.onnx"),
        num_threads=1,
    )
    opened = [recognizer.create_stream() for _ in range(streams)]

    def compute(audio: np.ndarray) -> None:
        for stream, samples in zip(opened, audio, strict=True):
            stream.accept_waveform(RATE, samples)
        while ready := [stream for stream in opened if recognizer.is_ready(stream)]:
            recognizer.decode_streams(ready)
        for stream in opened:
            recognizer.get_result(stream)

    return compute


MAKERS = dict(
    zip(PEERS, (engine, ensemble, bare_graph, nemo_export, nemo_pipeline, sherpa_onnx), strict=True)
) | {"spoken": spoken, "written": written}


def work(peer: str, folder: Path, look_ahead: int, streams: int, rounds: int) -> None:
    """Measure one peer on one core; print the seconds of each round as JSON."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    compute = MAKERS[peer](folder, look_ahead, streams)
    samples = 1280 * (look_ahead + 1)
    generator = np.random.default_rng(1)
    seconds, processor = [], []
    for index in range(WARM_UP + rounds):
        audio = (0.1 * generator.standard_normal((streams, samples))).astype(np.float32)
        started, cpu = time.perf_counter(), cpu_seconds([os.getpid()])
        compute(audio)
        if index >= WARM_UP:
            seconds.append(time.perf_counter() - started)
            processor.append(cpu_seconds([os.getpid()]) - cpu)
    print(json.dumps({"wall": seconds, "cpu": processor}))


def sherpa_python() -> Path:
    """Return the interpreter of an environment with sherpa-onnx; UserError when it cannot be made."""
    python = SHERPA / "bin" / "python"
    if not python.exists():
        venv.create(SHERPA, with_pip=True, clear=True)
    if subprocess.run([str(python), "-c", "import sherpa_onnx"], capture_output=True).returncode:
        packages = [f"sherpa-onnx=={SHERPA_VERSION}", "numpy"]
        done = subprocess.run(
            [str(python), "-m", "pip", "install", *packages], capture_output=True, text=True
        )
        if done.returncode:
            raise UserError(f"sherpa-onnx cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return python


def measure(peer: str, folder: Path, look_ahead: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return a peer's figures, or the reason why there are none."""
    try:
        python = sherpa_python() if peer == "sherpa-onnx" else Path(sys.executable)
    except UserError as error:
        return {"skipped": str(error)}
    command = [str(python), str(ROOT / "streaming.py"), "--work", peer, "--folder", str(folder)]
    command += ["--look-ahead", str(look_ahead), "--streams", str(options.streams)]
    command += ["--rounds", str(options.rounds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT.parent / "src")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return {"skipped": done.stderr.strip().splitlines()[-1][:300]}
    times = json.loads(done.stdout.strip().splitlines()[-1])
    wall, cpu = np.array(times["wall"]), np.array(times["cpu"])
    chunk = 0.08 * (look_ahead + 1)
    return {
        "chunk_ms_p50": round(1000 * float(np.median(wall)), 2),
        "chunk_ms_p99": round(1000 * float(np.percentile(wall, 99)), 2),
        "streams_per_core": round(chunk * options.streams / float(np.median(wall)), 1),
        "streams_per_core_by_cpu_time": round(chunk * options.streams / float(np.mean(cpu)), 1),
    }


def speed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    print(f"random weights of size {options.size}, {options.streams} streams, one core")
    subprocess.run(
        [sys.executable, __file__, "--work", "prepare", "--folder", str(folder), "--size", options.size],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    figures: dict[str, Any] = {}
    for look_ahead in LOOK_AHEADS:
        peers = WRITTEN_PEERS if options.written else PEERS
        found = {peer: measure(peer, folder, look_ahead, options) for peer in peers}
        ours = found[peers[0]].get("streams_per_core")
        print(f"[70,{look_ahead}], chunks of {80 * (look_ahead + 1)} ms")
        for peer, values in found.items():
            if "skipped" in values:
                print(f"  {peer:<14} skipped: {values['skipped']}")
                continue
            ratio = values[f"{peers[0]}_ratio"] = (
                round(ours / values["streams_per_core"], 2) if ours else None
            )
            print(
                f"  {peer:<14} {values['streams_per_core']:7.1f} streams a core, chunk p50 "
                f"{values['chunk_ms_p50']:7.1f} ms, p99 {values['chunk_ms_p99']:7.1f} ms, "
                f"{peers[0]} / it {ratio}"
            )
        figures[f"70,{look_ahead}"] = found
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", default="s", help="xs, s, m or l (default s)")
    add("--streams", type=int, default=32)
    add("--rounds", type=int, default=30)
    add("--written", action="store_true", help="the ensemble without and with the written form, and no peers")
    add("--out", type=Path, help="JSON (default bench/results/streaming.json, or streaming_written.json)")
    for name, kind in (("--work", str), ("--folder", Path), ("--look-ahead", int)):
        add(name, type=kind, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work == "prepare":
        prepare(options.folder, options.size)
        return 0
    if options.work:
        work(options.work, options.folder, options.look_ahead, options.streams, options.rounds)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        result: dict[str, Any] = {"streams": options.streams, "size": options.size}
        result["speed"] = speed(options, Path(folder))
    result |= provenance(["onnxruntime", "torch", "nemo-toolkit", "numpy", "scipy"])
    result["versions"]["sherpa-onnx"] = SHERPA_VERSION
    name = "streaming_written.json" if options.written else "streaming.json"
    out = options.out or ROOT / "results" / name
    with atomic_write(out) as stream:
        json.dump(result, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    run_main(main)
