"""The one way from a torch module to an ONNX graph."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

OPSET = 18


def to_onnx(
    module: "torch.nn.Module",
    example: tuple["torch.Tensor", ...],
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Trace ``module`` on ``example`` and write its simplified graph to ``path``.

    The first axis of every tensor is the batch; ``axes`` names the others that vary.

    The modules exported here have no data-dependent control flow, so torch's tracing exporter writes the same
    graph as its successor, which needs ten times as long (70 s instead of 7 for 16 layers, torch 2.13): it
    re-traces every operator with symbolic shapes. Lengths stay integers.
    """
    import torch

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's age and its constant folding, not this module
        torch.onnx.export(
            module.eval(),
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch", **(axes or {}).get(name, {})} for name in (*inputs, *outputs)},
        )
    _simplify(path)


def _simplify(path: Path) -> None:
    """Fold constants and drop what nothing reads; the checker has the last word."""
    import onnx
    from onnxscript import ir, optimizer

    graph = ir.load(path)
    optimizer.optimize(graph)
    ir.save(graph, path)
    onnx.checker.check_model(str(path), full_check=True)
