"""The shapes that a TensorRT plan of the streaming encoder must hold, and its comparison with ONNX Runtime.

The plan itself is built, recorded and checked by `ko_asr.export.tensorrt`, as the offline one is. Chunks have
one shape and only the batch varies, so the one optimisation profile covers all that the server ever asks for.

Needs numpy; ``onnxruntime`` to compare.
"""

from pathlib import Path

import numpy as np

from ko_asr.export.streaming.chunks import Runner, Tensors, onnx_runner, walk
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import ENCODED_LENGTH, FEATURES, LENGTH, LOG_PROBS, TOKEN_IDS, TOKEN_LOG_PROBS


def streaming_profile(contract: StreamingContract) -> dict[str, list[list[int]]]:
    """The one optimisation profile: every input, states included, for 1 to ``max_batch_size`` streams."""
    largest = contract.max_batch_size
    rows = {FEATURES: [contract.mels, contract.window_frames], LENGTH: [1]}
    rows |= {state["input"]: state["shape"] for state in contract.states}
    batches = (1, max(1, largest // 2), largest)
    return {name: [[batch, *shape] for batch in batches] for name, shape in rows.items()}


def noise_streams(contract: StreamingContract, rows: int) -> list[np.ndarray]:
    """Noise as loud as log-mel, [mels, T] each.

    The longest fills the left context and goes on; the others end before it, at any place of a chunk.
    """
    longest = contract.shift_frames * (contract.left // contract.chunk + 3)
    generator = np.random.default_rng(0)
    lengths = [max(9, longest - 37 * row) for row in range(rows)]
    return [generator.normal(-6, 3, (contract.mels, length)).astype(np.float32) for length in lengths]


def streaming_difference(runner: Runner, graph: Path, contract: StreamingContract) -> float:
    """Largest difference of the best tokens' log-probabilities between a plan and ONNX Runtime.

    One stream, then as many as a batch may hold, from their first chunk to their last; each side carries its
    own states. Infinite when frame counts or finiteness differ.
    """
    reference = onnx_runner(graph, (TOKEN_LOG_PROBS, TOKEN_IDS, ENCODED_LENGTH))
    worst = 0.0
    for rows in sorted({1, contract.max_batch_size}):
        clips = noise_streams(contract, rows)
        chunks = (walk(run, contract, clips) for run in (reference, runner))
        for (_, wanted), (_, got) in zip(*chunks, strict=True):
            worst = max(worst, _chunk_difference(dict(wanted), dict(got)))
    return worst


def _chunk_difference(wanted: Tensors, got: Tensors) -> float:
    counts = wanted[ENCODED_LENGTH]
    if not np.array_equal(got[ENCODED_LENGTH], counts):
        return float("inf")
    best = wanted[TOKEN_IDS][:, :, :1].astype(np.int64)
    chosen = np.take_along_axis(got[LOG_PROBS], best, axis=2)[:, :, 0]
    valid = np.arange(chosen.shape[1])[None, :] < counts
    difference = np.abs(chosen - wanted[TOKEN_LOG_PROBS][:, :, 0])[valid]
    if not np.isfinite(difference).all():
        return float("inf")
    return float(difference.max(initial=0.0))
