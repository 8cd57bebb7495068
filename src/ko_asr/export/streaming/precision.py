"""Lower precisions of the streaming graph, and the gate that each must pass on real audio, chunk by chunk.

They are made as `ko_asr.export.precision` makes the offline ones: ``fp16`` is exported in half, caches
included; ``int8`` for ONNX Runtime is dynamic, ``int8`` for TensorRT explicit, its ranges from streamed audio
with the states that go with it. What a wrong frame leaves in the caches is heard in later chunks, so the gate
carries each graph's own states from the first chunk of an utterance to the last.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ko_asr.export import precision as low
from ko_asr.export.parity import Figure
from ko_asr.export.precision import LONG_FRAMES, Difference, Limits, Report, Utterance
from ko_asr.export.streaming.chunks import Tensors, frames_of_clips, onnx_runner, walk
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import ENCODED_LENGTH, LOG_PROBS, TOKEN_IDS

BATCH = 8  # streams side by side, of any lengths
_UNBOUNDED = 2 * LONG_FRAMES  # a stream may be longer than any stress batch
_LAYER_END = "/norm_out/LayerNormalization"  # of `streaming_graph.Layer`


@dataclass(frozen=True)
class Purpose:
    """What a streaming graph is exported for: who runs it, in which precision, and what judges that."""

    target: str = "onnx"
    precision: str = "fp32"
    front_end: str = "numpy"  # what computes its features, "numpy" or "graph"
    max_batch_size: int = 32
    limits: Limits | None = None  # those of the precision, if None
    gate: Sequence[Utterance] = ()  # judges fp16 and int8
    calibration: Sequence[Utterance] = ()  # sets the ranges of int8 for TensorRT
    told: Callable[[StreamingContract, Report], None] | None = None  # hears the gate's figures, good or bad


def calibration_feeds(
    graph: Path, contract: StreamingContract, calibration: Sequence[Utterance]
) -> Iterator[Tensors]:
    """What goes into ``graph`` while ``calibration`` is streamed, with the states that it left there.

    Made one chunk at a time. Streams of like length come together, so that few are over before their mates.
    """
    run = onnx_runner(graph, ())
    ordered = sorted(calibration, key=lambda item: item.features.shape[1])
    for start in range(0, len(ordered), BATCH):
        batch = [item.features for item in ordered[start : start + BATCH]]
        yield from (feed for feed, _ in walk(run, contract, batch))


def quantize_for_tensorrt(
    graph: Path, out: Path, contract: StreamingContract, calibration: Sequence[Utterance]
) -> None:
    """Explicit int8 (Q/DQ) of a streaming ``graph``, its ranges from ``calibration``, streamed."""
    low.quantize_over(graph, out, calibration_feeds(graph, contract, calibration))


@dataclass(frozen=True)
class _Heard:
    """What a graph hears in one stream: [frames, V + 1] and [frames]; ``count`` frames by its own account."""

    log_probs: np.ndarray
    ids: np.ndarray
    count: int


class Graph:
    """A streaming graph that is compared, on ONNX Runtime."""

    def __init__(self, path: Path, contract: StreamingContract) -> None:
        self.path, self.contract = path, contract
        self._run = onnx_runner(path, (LOG_PROBS, TOKEN_IDS, ENCODED_LENGTH))

    def heard(self, batch: Sequence[Utterance]) -> list[_Heard]:
        """What is heard when ``batch`` is streamed side by side."""
        clips = [item.features for item in batch]
        parts = [
            (answer[LOG_PROBS], answer[TOKEN_IDS][:, :, 0], answer[ENCODED_LENGTH])
            for _, answer in walk(self._run, self.contract, clips)
        ]
        log_probs, ids, counts = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        frames = frames_of_clips(self.contract, clips)
        return [
            _Heard(log_probs[row, :count], ids[row, :count], int(counts[row].sum()))
            for row, count in enumerate(frames)
        ]

    def layer_outputs(self, item: Utterance) -> dict[str, np.ndarray]:
        """What each layer gives for one stream, [frames, d_model]."""
        model, layers = low.with_layer_outputs(self.path, _LAYER_END)
        (frames,) = frames_of_clips(self.contract, [item.features])
        run = onnx_runner(model, list(layers))
        chunks = [
            [answer[output] for output in layers] for _, answer in walk(run, self.contract, [item.features])
        ]
        joined = (np.concatenate(parts)[:frames] for parts in zip(*chunks, strict=True))
        return {name: value.astype(np.float64) for name, value in zip(layers.values(), joined, strict=True)}


def _difference(item: Utterance, wanted: _Heard, got: _Heard) -> Difference:
    frames = len(wanted.ids)
    if got.count != wanted.count or not np.isfinite(got.log_probs).all():
        return Difference(item.name, frames, 1.0, float("inf"), got.ids[:0], wanted.ids)
    place = wanted.ids[:, None].astype(np.int64)
    best, chosen = (np.take_along_axis(heard.log_probs, place, axis=1) for heard in (wanted, got))
    changed = float(np.mean(got.ids != wanted.ids))
    return Difference(item.name, frames, changed, float(np.abs(chosen - best).max()), got.ids, wanted.ids)


def _differences(batch: Sequence[Utterance], wanted: list[_Heard], got: list[_Heard]) -> list[Difference]:
    return [_difference(*parts) for parts in zip(batch, wanted, got, strict=True)]


def check(reference: Graph, candidate: Graph, utterances: Sequence[Utterance], limits: Limits) -> Report:
    """Stream real audio through both graphs, each with its own states, and compare what they hear.

    Every utterance alone and in batches of mixed lengths (dynamic int8 takes one scale a batch, so the mates
    matter), and streams of an odd length above 2048 frames. Raises nothing: read `Report.passed`.
    """
    from tqdm import tqdm

    alone: list[Difference] = []
    together: list[Difference] = []
    for start in tqdm(range(0, len(utterances), BATCH), "precision gate", leave=False):
        batch = utterances[start : start + BATCH]
        wanted = reference.heard(batch)
        together += _differences(batch, wanted, candidate.heard(batch))
        for item, one in zip(batch, wanted, strict=True):
            alone += _differences([item], [one], candidate.heard([item]))
    stressed = [
        difference
        for batch in low.stress_batches(utterances, _UNBOUNDED)
        for difference in _differences(batch, reference.heard(batch), candidate.heard(batch))
    ]
    vocabulary = reference.contract.text_vocabulary()
    cer = max((low.cer_of(found, utterances, vocabulary) for found in (alone, together)), key=lambda c: c[1])
    longest = low.worst_share(stressed)
    return Report(
        [
            Figure("frames whose best token changes", low.disagreement(alone), limits.disagreement),
            Figure(f"the same, {BATCH} streams a batch", low.disagreement(together), limits.disagreement),
            Figure(f"the same, streams of {LONG_FRAMES} frames", longest, 3 * limits.disagreement),
            Figure(f"CER rise, {len(utterances)} utterances", max(0.0, cer[1] - cer[0]), limits.cer_rise),
        ],
        low.worst_of([*alone, *together, *stressed]),
        cer,
    )


def refusal(report: Report, reference: Graph, candidate: Graph, utterances: Sequence[Utterance]) -> str:
    """Why ``report`` does not pass: the figure, the worst utterance and the layer that adds most error."""
    item = low.worst_utterance(report, utterances, _UNBOUNDED)
    errors = low.relative_errors(reference.layer_outputs(item), candidate.layer_outputs(item))
    return low.sentence(report, item, errors)
