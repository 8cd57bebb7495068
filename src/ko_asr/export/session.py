"""The one way from an ONNX graph to a session of ONNX Runtime, on the CPU.

Needs ``onnxruntime`` only: plans are compared with their graphs where torch is not installed.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

_ERRORS_ONLY = 3  # of ONNX Runtime's severities, 0 (verbose) to 4 (fatal)


def open_session(graph: str | Path | bytes, threads: int | None = None) -> "onnxruntime.InferenceSession":
    """Open a session of ``graph``, a file or a serialised model.

    With ``threads`` it computes with so many and writes nothing but errors; without, ONNX Runtime takes every
    core and its own log level. Operators run one after another either way, so the pool between them is one.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = _ERRORS_ONLY
    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
