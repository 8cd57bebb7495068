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
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError, run_main
from ko_asr.models.nemo_file import check_nemo_file, newest_model
from ko_asr.provenance import sha256
from ko_asr.runtime import file_names
from ko_asr.runtime.contract import BUCKETS, Contract, bucket_lengths
from ko_asr.runtime.tensors import ENCODER, ENSEMBLE, LOG_MEL, PREPROCESSOR, STREAM_ENSEMBLE

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "experiments"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="the .nemo to export (default: the newest under experiments/)")
    add(
        "--repository",
        type=Path,
        default=ROOT / "triton",
        help="where the model folders go (default: triton/)",
    )
    add("--target", choices=["onnx", "tensorrt"], default="onnx", help="what runs the encoder")
    add("--precision", choices=["fp32", "fp16", "int8"], default="fp32", help="of the encoder (default fp32)")
    add(
        "--front-end",
        choices=["numpy", "graph"],
        default="numpy",
        help="what computes the log-mel features: the preprocessor in numpy (default, the faster on a CPU), "
        "or an ONNX graph between preprocessor and encoder, which runs on the GPU where there is one",
    )
    add("--gate-manifest", type=Path, help="speech with text that judges fp16 and int8 (JSONL)")
    add("--calibration", type=Path, help="speech that sets the ranges of int8 for TensorRT (JSONL)")
    add("--gate-utterances", type=int, default=200, help="at most so many of each manifest (default 200)")
    add("--max-cer-rise", type=float, help="absolute; default 0.001 for fp16, 0.005 for int8")
    add("--max-batch-size", type=int, help="rows the server may put in one batch (default 8; streams 32)")
    add("--max-seconds", type=float, default=60.0, help="longest audio of one request (default 60)")
    add("--instances", type=int, default=2, help="encoder sessions (default 2)")
    add("--threads", type=int, default=1, help="threads of an encoder session (default 1)")
    add("--preprocessors", type=int, default=2, help="preprocessors, and log-mel sessions (default 2)")
    add("--decoders", type=int, default=1, help="decoder processes (default 1)")
    keys = [a.partition("=") if "=" in a and not a.startswith("-") else ("", "", a) for a in arguments]
    add(
        "--look-aheads",
        type=look_aheads,
        help="of a streaming model, in encoder frames, such as 6,1; the "
        "first becomes asr_streaming, 1 becomes asr_streaming_1 (default: the model's first)",
    )
    add("--max-streams", type=int, default=128, help="live streams; more are refused (default 128)")
    add(
        "--batch-delay-ms",
        type=float,
        help="a stream's chunk waits so long for others (default: a twentieth of the chunk)",
    )
    add("--idle-seconds", type=float, default=30.0, help="a silent client's stream ends then (default 30)")
    spelled = [f"--{key.replace('_', '-')}={value}" if key else value for key, _, value in keys]
    options = parser.parse_args(spelled)
    counts = ("max_batch_size", "max_seconds", "instances", "threads", "preprocessors", "decoders")
    for name in (*counts, "gate_utterances", "max_streams", "idle_seconds"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    if not 0 <= (options.batch_delay_ms or 0) <= 1000:
        parser.error("--batch-delay-ms must be 0 to 1000")
    check_manifests(options)
    return options


def look_aheads(text: str) -> list[int]:
    """Numbers of encoder frames, written with commas; each once."""
    found = [int(part) for part in text.split(",")]
    if len(set(found)) != len(found) or min(found) < 0:
        raise ValueError(text)
    return found


def check_manifests(options: argparse.Namespace) -> None:
    """UserError when the precision asked for cannot be judged or calibrated."""
    if options.precision != "fp32" and options.gate_manifest is None:
        raise UserError(f"precision {options.precision} is judged on speech: add --gate-manifest M.jsonl")
    if options.precision == "int8" and options.target == "tensorrt" and options.calibration is None:
        raise UserError("int8 for TensorRT is calibrated on real speech: add --calibration M.jsonl")
    for path in (options.gate_manifest, options.calibration):
        if path is not None and not path.is_file():
            raise UserError(f"no manifest at {path}: give a JSONL that recipes/prepare_*.py wrote")


def shown(path: Path) -> str:
    """``path`` from here when it lies below, else as it is."""
    absolute = path.resolve()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)


def longest_samples(model: Any, seconds: float, hop: int) -> int:
    """``seconds`` in samples, if the positional table of the encoder holds them."""
    subsampling = int(model.encoder.subsampling_factor)
    rate = int(model.preprocessor.featurizer.sample_rate)
    table = int(model.encoder.pos_emb_max_len) * subsampling * hop
    if seconds * rate > table:
        raise UserError(
            f"--max-seconds {seconds:g} is more than the encoder's {table // rate} s positional table"
        )
    return int(seconds * rate)


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "nemo_toolkit", "onnx", "onnxruntime", "ko-asr")}


def show(figures: Sequence[Any]) -> None:
    for figure in figures:
        verdict = "ok" if figure.passed else "TOO FAR"
        print(f"  {figure.name:<38} {figure.value:.1e}  (limit {figure.limit:.0e})  {verdict}")


def gate(
    model: Any, log_mel: Any, graph: Path, max_frames: int, log_mel_graph: Path | None = None
) -> dict[str, float]:
    """Print every figure; raise UserError when one is above its limit."""
    from ko_asr.export.parity import check_graph, check_log_mel, check_log_mel_graph

    figures = check_log_mel(model, log_mel)
    if log_mel_graph is not None:
        figures += check_log_mel_graph(model, log_mel.hop, log_mel_graph)
    figures += check_graph(model, graph, len(log_mel.filters), max_frames)
    show(figures)
    if failed := [figure.name for figure in figures if not figure.passed]:
        raise UserError(f"the export differs from NeMo in: {'; '.join(failed)}; nothing was written")
    return {figure.name: figure.value for figure in figures}


def speech(manifest: Path, log_mel: Any, rate: int, max_frames: int, options: argparse.Namespace) -> Any:
    """Utterances of a gate or calibration manifest."""
    from ko_asr.export.precision import read_utterances

    return read_utterances(manifest, log_mel, rate, options.gate_utterances, max_frames)


def limits_of(options: argparse.Namespace) -> Any:
    """What the precision asked for may cost; the CER as the user has it."""
    from dataclasses import replace

    from ko_asr.export.precision import LIMITS

    limits = LIMITS[options.precision]
    return limits if options.max_cer_rise is None else replace(limits, cer_rise=options.max_cer_rise)


def show_cost(precision: str, report: Any, where: str = "") -> None:
    """The figures of a precision's gate."""
    print(f"{precision} against fp32{where}, CER {report.cer[0]:.2%} -> {report.cer[1]:.2%}:")
    show(report.figures)


def lower_precision(
    model: Any, graph: Path, log_mel: Any, vocabulary: Any, max_frames: int, options: argparse.Namespace
) -> dict[str, float]:
    """Replace ``graph`` by one of ``options.precision`` that passes its gate, and return the figures.

    UserError, and the graph is left, when it does not: with the figure, the utterance and the layer.
    """
    from ko_asr.export import precision as low
    from ko_asr.export.offline.graph import export_encoder

    rate = int(model.preprocessor.featurizer.sample_rate)
    candidate = graph.with_name(f"{options.precision}.onnx")
    if options.precision == "fp16":
        export_encoder(model, candidate, max_frames, half=True)
    elif options.target == "tensorrt":
        calibration = speech(options.calibration, log_mel, rate, max_frames, options)
        low.quantize_for_tensorrt(graph, candidate, calibration)
    else:
        low.quantize_for_cpu(graph, candidate)
    utterances = speech(options.gate_manifest, log_mel, rate, max_frames, options)
    report = low.check(graph, candidate, utterances, vocabulary, max_frames, limits_of(options))
    show_cost(options.precision, report)
    if not report.passed:
        reason = low.refusal(report, graph, candidate, utterances, max_frames)
        raise UserError(f"{options.precision} costs too much: {reason}; nothing was written")
    candidate.replace(graph)
    return {f"{options.precision}: {figure.name}": figure.value for figure in report.figures}


def make_contract(
    model: Any, path: Path, graph: Path, log_mel: Any, log_mel_graph: Path | None, options: argparse.Namespace
) -> Contract:
    from ko_asr.models.vocabulary import find_vocabulary

    max_samples = longest_samples(model, options.max_seconds, log_mel.hop)
    max_frames = log_mel.frames(max_samples)
    vocabulary = find_vocabulary(model.tokenizer.tokenizer)
    parity = gate(model, log_mel, graph, max_frames, log_mel_graph)
    if options.precision != "fp32":
        parity |= lower_precision(model, graph, log_mel, vocabulary, max_frames, options)
    return Contract(
        export_id=secrets.token_hex(8),
        model=path.name,
        model_sha256=sha256(path),
        onnx_sha256=sha256(graph),
        vocabulary=vocabulary.to_json(),
        blank_id=len(vocabulary.pieces),
        mels=len(log_mel.filters),
        sample_rate=int(model.preprocessor.featurizer.sample_rate),
        hop=log_mel.hop,
        subsampling=int(model.encoder.subsampling_factor),
        min_samples=log_mel.min_samples,
        max_samples=max_samples,
        bucket_frames=bucket_lengths(log_mel.frames(max_samples), *BUCKETS[options.target]),
        max_batch_size=options.max_batch_size or 8,
        target=options.target,
        precision=options.precision,
        front_end=options.front_end,
        versions=versions(),
        parity=parity,
    )


def main() -> None:
    options = parse(sys.argv[1:])
    path = options.model or newest_model(EXPERIMENTS)
    check_nemo_file(path)
    print(f"exporting {shown(path)}" + ("" if options.model else f" (the newest under {EXPERIMENTS.name}/)"))
    from ko_asr.serving import offline as repository
    from ko_asr.serving.staging import VERSION, publish, staging

    with staging(options.repository) as stage:
        from ko_asr.evaluation.model_card import write_model_card
        from ko_asr.export.offline.graph import export_encoder
        from ko_asr.models.front_end import log_mel_of
        from ko_asr.models.nemo_file import load_exportable_model

        started = time.monotonic()
        model = load_exportable_model(path)
        if is_streaming(model):
            return export_streams(model, path, options, started)
        log_mel = log_mel_of(model)
        graph = stage / file_names.GRAPH
        max_frames = log_mel.frames(longest_samples(model, options.max_seconds, log_mel.hop))
        export_encoder(model, graph, max_frames)
        log_mel_graph = write_front_end(log_mel, stage, options.front_end)
        print("against NeMo, largest difference:")
        contract = make_contract(model, path, graph, log_mel, log_mel_graph, options)
        files = {f"{ENCODER}/model.onnx": graph}
        if log_mel_graph is None:
            files[f"{PREPROCESSOR}/logmel.npz"] = stage / file_names.LOG_MEL
        else:
            files[f"{LOG_MEL}/{file_names.LOG_MEL_GRAPH}"] = log_mel_graph
        serving = repository.Serving(
            options.instances, options.threads, options.preprocessors, options.decoders
        )
        repository.build(stage, contract, serving, ROOT / "export" / "models", files)
        write_model_card(path, stage / ENSEMBLE / VERSION / "model_card.md", repository=stage)
        publish(stage, options.repository, contract.models)
        repository.remove_others(stage, options.repository, contract)
    print(f"model card: {shown(options.repository)}/{ENSEMBLE}/{VERSION}/model_card.md")
    models = ", ".join(sorted(contract.models))
    print(f"wrote {shown(options.repository)}/ ({models}) in {time.monotonic() - started:.0f} s")
    build_plan(options)


def write_front_end(log_mel: Any, stage: Path, kind: str) -> Path | None:
    """Write logmel.npz or, for the front end "graph", logmel.onnx into ``stage``; the latter's path."""
    if kind == "numpy":
        log_mel.save(stage / file_names.LOG_MEL)
        return None
    from ko_asr.export.log_mel import export_offline

    export_offline(log_mel, path := stage / file_names.LOG_MEL_GRAPH)
    return path


def is_streaming(model: Any) -> bool:
    """Whether the model was trained to be heard chunk by chunk."""
    return model.encoder.att_context_style == "chunked_limited"


def export_streams(model: Any, path: Path, options: argparse.Namespace, started: float) -> None:
    """The streaming ensembles of a cache-aware model."""
    from ko_asr.export.streaming.publish import publish_look_aheads
    from ko_asr.serving import streaming as streams

    serving = streams.StreamServing(
        max_streams=options.max_streams,
        idle_seconds=options.idle_seconds,
        instances=options.instances,
        threads=options.threads,
        max_batch_size=options.max_batch_size or 32,
        batch_delay_ms=options.batch_delay_ms,
    )
    wanted = options.look_aheads or [int(model.encoder.att_context_size_all[0][1])]
    purpose = stream_purpose(model, options, serving.max_batch_size)
    contracts = publish_look_aheads(
        model, path, options.repository, wanted, serving, ROOT / "export" / "models", purpose
    )
    print("against NeMo's full forward pass, largest difference of log-probabilities in fp32:")
    for contract in contracts:
        name = streams.model_name(STREAM_ENSEMBLE, contract, wanted[0])
        worst = max(value for key, value in contract.parity.items() if key.startswith("log-probs"))
        print(f"  {name:<20} {chunks_of(contract):<20} {worst:.1e}  (limit 1e-03)  ok")
    if options.front_end == "graph":
        figures = [v for c in contracts for figure, v in c.parity.items() if figure.startswith("log-mel")]
        print("the log-mel graphs against the numpy front end, largest difference of log-mel features:")
        print(f"  {'every window of the streams compared':<41} {max(figures):.1e}  (limit 1e-03)  ok")
    print(f"wrote {shown(options.repository)}/ in {time.monotonic() - started:.0f} s")
    build_plan(options)


def stream_purpose(model: Any, options: argparse.Namespace, max_batch_size: int) -> Any:
    """Target and precision of a streaming export, with the speech that judges and calibrates it."""
    from ko_asr.export.streaming.precision import Purpose
    from ko_asr.models.front_end import log_mel_of

    common = {
        "target": options.target,
        "front_end": options.front_end,
        "max_batch_size": max_batch_size,
    }
    if options.precision == "fp32":
        return Purpose(**common)
    log_mel, rate = log_mel_of(model), int(model.preprocessor.featurizer.sample_rate)
    max_frames = log_mel.frames(int(options.max_seconds * rate))
    calibrated = options.precision == "int8" and options.target == "tensorrt"
    manifests = (options.gate_manifest, options.calibration if calibrated else None)
    gated, calibration = (
        speech(path, log_mel, rate, max_frames, options) if path else () for path in manifests
    )
    return Purpose(
        **common,
        precision=options.precision,
        limits=limits_of(options),
        gate=gated,
        calibration=calibration,
        told=lambda contract, report: show_cost(contract.precision, report, f" in {chunks_of(contract)}"),
    )


def chunks_of(contract: Any) -> str:
    """The size of a streaming contract's chunks, in words."""
    return f"chunks of {1000 * contract.chunk_seconds:.0f} ms"


def build_plan(options: argparse.Namespace) -> None:
    """For target=tensorrt build the plans where that is possible; always say what comes next."""
    place = shown(options.repository)
    command = [str(ROOT / "export" / "build_plan.py"), "--if-needed", "--repository", str(options.repository)]
    if options.target == "tensorrt" and importlib.util.find_spec("tensorrt") is None:
        print("no TensorRT here: the ensemble refuses to start until the plan is built")
        print(f"next, in the serving container: python export/build_plan.py --repository {place}/")
        return
    if options.target == "tensorrt" and subprocess.run([sys.executable, *command], check=False).returncode:
        raise UserError(f"{place}/ is exported, but not every plan could be built: see above")
    print(f"next: tritonserver --model-repository {place}/")


if __name__ == "__main__":
    run_main(main)
