"""A graph of lower precision in the place of an fp32 one: how int8 is made, and what its gate decides."""

from collections.abc import Iterable
from pathlib import Path

from ko_asr.errors import UserError
from ko_asr.export.options import ExportOptions
from ko_asr.export.precision import ComparedGraph, Report, refusal
from ko_asr.export.quantize import Feed, quantize_for_cpu, quantize_for_tensorrt


def quantize(graph: Path, out: Path, target: str, feeds: Iterable[Feed]) -> None:
    """Write int8 of ``graph`` as ``target`` takes it; ``feeds`` are read for TensorRT only."""
    if target == "tensorrt":
        quantize_for_tensorrt(graph, out, feeds)
    else:
        quantize_for_cpu(graph, out)


def refuse_or_report(
    title: str, report: Report, graphs: tuple[ComparedGraph, ComparedGraph], options: ExportOptions
) -> dict[str, float]:
    """Hand ``report`` to ``options.on_report`` and return its figures for the contract.

    ``graphs`` are the reference and the candidate. UserError, with the figure, the utterance and the layer,
    when the report does not pass.
    """
    options.on_report(title, report)
    if not report.passed:
        reason = refusal(report, *graphs, options.gate)
        raise UserError(f"{options.precision} costs too much: {reason}; nothing was written")
    return {f"{options.precision}: {figure.name}": figure.value for figure in report.figures}
