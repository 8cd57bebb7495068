"""Lower precisions of the streaming graph, and the gate that each must pass on real audio, chunk by chunk.

They are made as the offline ones are: ``fp16`` is exported in half, caches included; ``int8`` for ONNX
Runtime is dynamic, ``int8`` for TensorRT explicit, its ranges from streamed audio with the states that go
with it. A wrong frame that stays in the caches does harm in later chunks, so the gate carries each graph's
own states from the first chunk of an utterance to the last.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.export.figures import Figure, chunks_of
from ko_asr.export.options import ExportOptions
from ko_asr.export.precision import (
    LONG_FRAMES,
    Difference,
    GateUtterance,
    Limits,
    Report,
    cer_of,
    disagreement,
    stress_batches,
    with_layer_outputs,
    worst_of,
    worst_share,
)
from ko_asr.export.streaming.chunks import Tensors, frames_of_clips, onnx_runner, walk
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import ENCODED_LENGTH, LOG_PROBS, TOKEN_IDS

BATCH = 8  # streams side by side, of any lengths
_LAYER_END = "/norm_out/LayerNormalization"  # of `ko_asr.export.streaming.encoder.Layer`


@dataclass(frozen=True)
class _Answer:
    """The answer of a graph to one stream: log-probabilities [frames, V + 1] and best tokens [frames]."""

    log_probs: np.ndarray
    ids: np.ndarray
    count: int  # frames by the graph's own account


class StreamedGraph:
    """A streaming graph that is compared, on ONNX Runtime."""

    max_frames = 2 * LONG_FRAMES  # a stream has no longest length: no stress batch is cut

    def __init__(self, path: Path, contract: StreamingContract) -> None:
        self.path, self.contract = path, contract
        self.runner = onnx_runner(path, (LOG_PROBS, TOKEN_IDS, ENCODED_LENGTH))

    def run(self, batch: Sequence[GateUtterance]) -> list[_Answer]:
        """Stream ``batch`` side by side, from the first chunk to the last of the longest."""
        clips = [item.features for item in batch]
        parts = [
            (answer[LOG_PROBS], answer[TOKEN_IDS][:, :, 0], answer[ENCODED_LENGTH])
            for _, answer in walk(self.runner, self.contract, clips)
        ]
        log_probs, ids, counts = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        return [
            _Answer(log_probs[row, :count], ids[row, :count], int(counts[row].sum()))
            for row, count in enumerate(frames_of_clips(self.contract, clips))
        ]

    def layer_outputs(self, item: GateUtterance) -> dict[str, np.ndarray]:
        """Outputs [frames, d_model] float64 of each encoder layer for one stream."""
        model, layers = with_layer_outputs(self.path, _LAYER_END)
        (frames,) = frames_of_clips(self.contract, [item.features])
        run = onnx_runner(model, list(layers))
        chunks = [
            [answer[output] for output in layers] for _, answer in walk(run, self.contract, [item.features])
        ]
        joined = (np.concatenate(parts)[:frames] for parts in zip(*chunks, strict=True))
        return {name: value.astype(np.float64) for name, value in zip(layers.values(), joined, strict=True)}


def calibration_feeds(
    graph: Path, contract: StreamingContract, calibration: Sequence[GateUtterance]
) -> Iterator[Tensors]:
    """Feeds of ``graph`` while ``calibration`` is streamed, with the states that it left in them.

    Made one chunk at a time. Streams of like length come together, so that few are over before their mates.
    """
    run = onnx_runner(graph, ())
    ordered = sorted(calibration, key=lambda item: item.features.shape[1])
    for start in range(0, len(ordered), BATCH):
        batch = [item.features for item in ordered[start : start + BATCH]]
        yield from (feed for feed, _ in walk(run, contract, batch))


def _difference(item: GateUtterance, wanted: _Answer, got: _Answer) -> Difference:
    frames = len(wanted.ids)
    if got.count != wanted.count or not np.isfinite(got.log_probs).all():
        return Difference(item.name, frames, 1.0, float("inf"), got.ids[:0], wanted.ids)
    place = wanted.ids[:, None].astype(np.int64)
    best, chosen = (np.take_along_axis(answer.log_probs, place, axis=1) for answer in (wanted, got))
    changed = float(np.mean(got.ids != wanted.ids))
    return Difference(item.name, frames, changed, float(np.abs(chosen - best).max()), got.ids, wanted.ids)


def _differences(
    batch: Sequence[GateUtterance], wanted: list[_Answer], got: list[_Answer]
) -> list[Difference]:
    return [_difference(*parts) for parts in zip(batch, wanted, got, strict=True)]


def compare_streams(
    reference: StreamedGraph, candidate: StreamedGraph, utterances: Sequence[GateUtterance], limits: Limits
) -> Report:
    """Stream real audio through both graphs, each with its own states, and compare their answers.

    Every utterance alone and in batches of mixed lengths (dynamic int8 takes one scale a batch, so the mates
    matter), and streams of an odd length above 2048 frames. Raises nothing: read `Report.passed`.
    """
    alone, together = _on_speech(reference, candidate, utterances)
    stressed = [
        difference
        for batch in stress_batches(utterances, reference.max_frames)
        for difference in _differences(batch, reference.run(batch), candidate.run(batch))
    ]
    vocabulary = reference.contract.text_vocabulary()
    cer = max((cer_of(found, utterances, vocabulary) for found in (alone, together)), key=lambda c: c[1])
    return Report(
        [
            Figure("frames whose best token changes", disagreement(alone), limits.disagreement),
            Figure(f"the same, {BATCH} streams a batch", disagreement(together), limits.disagreement),
            Figure(
                f"the same, streams of {LONG_FRAMES} frames", worst_share(stressed), 3 * limits.disagreement
            ),
            Figure(f"CER rise, {len(utterances)} utterances", max(0.0, cer[1] - cer[0]), limits.cer_rise),
        ],
        worst_of([*alone, *together, *stressed]),
        cer,
    )


def _on_speech(
    reference: StreamedGraph, candidate: StreamedGraph, utterances: Sequence[GateUtterance]
) -> tuple[list[Difference], list[Difference]]:
    """The differences of every utterance, ``candidate`` streaming it alone and among `BATCH`."""
    from tqdm import tqdm

    alone: list[Difference] = []
    together: list[Difference] = []
    for start in tqdm(range(0, len(utterances), BATCH), "precision gate", leave=False):
        batch = utterances[start : start + BATCH]
        wanted = reference.run(batch)
        together += _differences(batch, wanted, candidate.run(batch))
        for item, one in zip(batch, wanted, strict=True):
            alone += _differences([item], [one], candidate.run([item]))
    return alone, together


def lower_precision(
    model: Any, graph: Path, contract: StreamingContract, options: ExportOptions
) -> StreamingContract:
    """Replace the fp32 ``graph`` by one of the options' precision that passes its gate.

    Returns its contract, with the gate's figures. UserError, and the graph is left, when it does not pass.
    """
    from ko_asr.export.lowering import quantize, refuse_or_report
    from ko_asr.export.streaming.graph import StreamingCTC, export_graph

    candidate = graph.with_name(f"{options.precision}.onnx")
    lowered = replace(contract, precision=options.precision)
    if options.precision == "fp16":
        half = StreamingCTC(model, contract.look_ahead, contract.top_k, half=True).eval()
        export_graph(half, lowered, candidate)
    else:
        feeds = calibration_feeds(graph, contract, options.calibration)
        quantize(graph, candidate, options.target, feeds)
    graphs = StreamedGraph(graph, contract), StreamedGraph(candidate, lowered)
    report = compare_streams(*graphs, options.gate, options.allowed)
    title = f"{options.precision} against fp32 in {chunks_of(contract)}"
    figures = refuse_or_report(title, report, graphs, options)
    candidate.replace(graph)
    return replace(lowered, parity=contract.parity | figures)
