"""int8 graphs from fp32 ones, offline or streaming: dynamic for a CPU, explicit (Q/DQ) for TensorRT.

Only linear layers are quantised: the subsampling, attention products and the CTC head stay as they are.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

Feed = Mapping[str, np.ndarray]
_FOR_TENSORRT = {
    # It takes no zero point but 0 and no int32 bias.
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    # A layer's output stays as it was summed. One range for the queries and the position scores of the
    # streaming graph changed the best token of 2.9 % of the demo's frames; without it, 0.4 %.
    "OpTypesToExcludeOutputQuantization": ["Gemm"],
}


def quantize_for_cpu(graph: Path, out: Path) -> None:
    """Write dynamic int8 of ``graph`` for ONNX Runtime on a CPU."""
    model = _without_shapes(graph)
    quantize_dynamic(
        model,
        str(out),
        op_types_to_quantize=["Gemm", "MatMul"],
        # The quantiser has renamed the layers by the time it looks for them.
        nodes_to_quantize=[f"{name}_MatMul" for name in _linear_layers(model)],
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def quantize_for_tensorrt(graph: Path, out: Path, feeds: Iterable[Feed]) -> None:
    """Write explicit int8 (Q/DQ) of ``graph``, its ranges from the largest activations over ``feeds``.

    One feed is held at a time: of each only the ranges are kept.
    """
    model = _without_shapes(graph)
    quantize_static(
        model,
        str(out),
        _Feeds(feeds),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Gemm"],
        nodes_to_quantize=_linear_layers(model),
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options=_FOR_TENSORRT,
    )


class _Feeds(CalibrationDataReader):
    """Feeds as the quantiser asks for them, one at a time."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Any:
        """The next feed, None after the last."""
        return next(self._feeds, None)


def _without_shapes(graph: Path) -> Any:
    """The model without inferred shapes: the quantiser turns weights round and trips over old ones."""
    import onnx

    model = onnx.load(str(graph))
    del model.graph.value_info[:]
    return model


def _linear_layers(model: Any) -> list[str]:
    """Names of the linear layers to quantise: neither the subsampling's nor the head."""
    linear = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    return linear[1:-1]
