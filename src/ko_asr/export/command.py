"""The command line of export/to_triton.py, and the options that it stands for.

Kept free of torch and NeMo, so that --help and a misspelt option answer at once.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_asr.errors import UserError
from ko_asr.runtime.silence import SILENCE_DBFS

if TYPE_CHECKING:
    from ko_asr.export.options import ExportOptions
    from ko_asr.serving.offline import Serving
    from ko_asr.serving.streaming import StreamServing

_POSITIVE = (
    "max_batch_size", "max_seconds", "instances", "threads", "preprocessors", "decoders",
    "gate_utterances", "max_streams", "idle_seconds",
)  # fmt: skip


def parse(arguments: Sequence[str], description: str | None, repository: Path) -> argparse.Namespace:
    """Read the command line of an export; ``repository`` is where model folders go by default.

    UserError when the precision asked for cannot be judged or calibrated.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_graph_options(parser, repository)
    _add_serving_options(parser)
    options = parser.parse_args([as_option(argument) for argument in arguments])
    for name in _POSITIVE:
        value = getattr(options, name)
        if value is not None and value <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    if not 0 <= (options.batch_delay_ms or 0) <= 1000:
        parser.error("--batch-delay-ms must be 0 to 1000")
    _check_manifests(options)
    return options


def as_option(argument: str) -> str:
    """Spell ``key=value``, the dialect of the training recipes, as the option --key=value.

    >>> as_option("gate_manifest=data/ko/dev.jsonl"), as_option("--target"), as_option("onnx")
    ('--gate-manifest=data/ko/dev.jsonl', '--target', 'onnx')
    """
    key, equals, value = argument.partition("=")
    if not equals or argument.startswith("-"):
        return argument
    return f"--{key.replace('_', '-')}={value}"


def _add_graph_options(parser: argparse.ArgumentParser, repository: Path) -> None:
    """Add the options of the graphs: what is exported, for what, and what judges it."""
    add = parser.add_argument
    add("--model", type=Path, help="the .nemo to export (default: the newest under experiments/)")
    place = "where the model folders go (default: triton/)"
    add("--repository", type=Path, default=repository, help=place)
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


def _add_serving_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the server: sizes, copies, threads, and the streams of a cache-aware model."""
    add = parser.add_argument
    add("--max-batch-size", type=int, help="rows the server may put in one batch (default 8; streams 32)")
    add("--max-seconds", type=float, default=60.0, help="longest audio of one request (default 60)")
    add(
        "--silence-dbfs",
        type=_level,
        default=SILENCE_DBFS,
        help="recordings in which nothing is louder are answered with no words "
        f"(default {SILENCE_DBFS:g}; off: the model is always asked)",
    )
    add("--instances", type=int, default=2, help="encoder sessions (default 2)")
    add("--threads", type=int, default=1, help="threads of an encoder session (default 1)")
    add("--preprocessors", type=int, default=2, help="preprocessors, and log-mel sessions (default 2)")
    add("--decoders", type=int, default=1, help="decoder processes (default 1)")
    add(
        "--look-aheads",
        type=_look_aheads,
        default=[],
        help="of a streaming model, in encoder frames, such as 6,1; the "
        "first becomes asr_streaming, 1 becomes asr_streaming_1 (default: the model's first)",
    )
    add("--max-streams", type=int, default=128, help="live streams; more are refused (default 128)")
    wait = "a stream's chunk waits so long for others (default: a twentieth of the chunk)"
    add("--batch-delay-ms", type=float, help=wait)
    add("--idle-seconds", type=float, default=30.0, help="a silent client's stream ends then (default 30)")


def _look_aheads(text: str) -> list[int]:
    """Numbers of encoder frames, written with commas; each once."""
    found = [int(part) for part in text.split(",")]
    if len(set(found)) != len(found) or min(found) < 0:
        raise ValueError(text)
    return found


def _level(text: str) -> float | None:
    """A level in dB, 0 for full scale; None for off."""
    level = None if text == "off" else float(text)
    if level is not None and not -200 <= level < 0:
        raise ValueError(text)
    return level


def _check_manifests(options: argparse.Namespace) -> None:
    """Refuse a precision that nothing judges or calibrates, with a UserError."""
    if options.precision != "fp32" and options.gate_manifest is None:
        raise UserError(f"precision {options.precision} is judged on speech: add --gate-manifest M.jsonl")
    if options.precision == "int8" and options.target == "tensorrt" and options.calibration is None:
        raise UserError("int8 for TensorRT is calibrated on real speech: add --calibration M.jsonl")
    for path in (options.gate_manifest, options.calibration):
        if path is not None and not path.is_file():
            raise UserError(f"no manifest at {path}: give a JSONL that recipes/prepare_*.py wrote")


def export_options(options: argparse.Namespace, model: Any) -> "ExportOptions":
    """Make what the command line asks for, with the speech that judges it and figures on the terminal.

    UserError when a manifest holds nothing that ``model`` can take.
    """
    from ko_asr.export.figures import show_figures, show_report
    from ko_asr.export.options import ExportOptions, with_speech
    from ko_asr.export.precision import LIMITS

    limits = LIMITS.get(options.precision)
    if limits and options.max_cer_rise is not None:
        limits = replace(limits, cer_rise=options.max_cer_rise)
    wanted = ExportOptions(
        target=options.target,
        precision=options.precision,
        front_end=options.front_end,
        max_batch_size=options.max_batch_size,
        max_seconds=options.max_seconds,
        silence_dbfs=options.silence_dbfs,
        look_aheads=options.look_aheads,
        limits=limits,
        on_figures=show_figures,
        on_report=show_report,
    )
    return with_speech(wanted, model, options.gate_manifest, options.calibration, options.gate_utterances)


def offline_serving(options: argparse.Namespace) -> "Serving":
    """The copies and threads that the command line asks for."""
    from ko_asr.serving.offline import Serving

    return Serving(options.instances, options.threads, options.preprocessors, options.decoders)


def stream_serving(options: argparse.Namespace) -> "StreamServing":
    """The streams and sessions that the command line asks for."""
    from ko_asr.serving.streaming import StreamServing

    return StreamServing(
        max_streams=options.max_streams,
        idle_seconds=options.idle_seconds,
        instances=options.instances,
        threads=options.threads,
        max_batch_size=options.max_batch_size or StreamServing.max_batch_size,
        batch_delay_ms=options.batch_delay_ms,
    )
