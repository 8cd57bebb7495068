"""Lower precisions of the offline graph, and the gate that each must pass on real audio."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.export.figures import Figure
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
from ko_asr.export.session import open_session
from ko_asr.runtime import tensors
from ko_asr.runtime.ctc import Vocabulary

_OUTPUTS = [tensors.LOG_PROBS, tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH]
_LAYER_END = "/norms.4/LayerNormalization"  # of `ko_asr.export.offline.encoder.Layer`


class OfflineGraph:
    """An offline graph that is compared, on ONNX Runtime."""

    def __init__(self, path: Path, vocabulary: Vocabulary, max_frames: int) -> None:
        self.path, self.vocabulary, self.max_frames = path, vocabulary, max_frames
        self._session = open_session(path)

    def run(self, batch: Sequence[GateUtterance]) -> list[np.ndarray]:
        """Log-probabilities, best tokens, their log-probabilities and frame counts of one padded batch."""
        feed = padded_feed([item.features for item in batch])
        log_probs, ids, best, counts = self._session.run(_OUTPUTS, feed)
        return [log_probs, ids[:, :, 0], best[:, :, 0], counts]

    def layer_outputs(self, item: GateUtterance) -> dict[str, np.ndarray]:
        """Outputs [frames, d_model] float64 of each encoder layer for one utterance."""
        model, layers = with_layer_outputs(self.path, _LAYER_END)
        values = open_session(model).run(list(layers), padded_feed([item.features]))
        return {name: value.astype(np.float64) for name, value in zip(layers.values(), values, strict=True)}


def padded_feed(features: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Batch ``features`` [mels, frames]; padding is noise, so that a mask that leaks is seen."""
    lengths = [item.shape[1] for item in features]
    batch = np.random.default_rng(0).standard_normal((len(features), len(features[0]), max(lengths)))
    batch = batch.astype(np.float32)
    for row, item in enumerate(features):
        batch[row, :, : item.shape[1]] = item
    return {tensors.FEATURES: batch, tensors.LENGTH: np.array(lengths, np.int64)[:, None]}


def calibration_feeds(calibration: Sequence[GateUtterance]) -> Iterator[dict[str, np.ndarray]]:
    """Each utterance of ``calibration`` alone."""
    return (padded_feed([item.features]) for item in calibration)


def _differences(
    reference: OfflineGraph, candidate: OfflineGraph, batch: Sequence[GateUtterance]
) -> Iterator[Difference]:
    """Each utterance of ``batch``, padded together in ``candidate`` and alone in ``reference``."""
    log_probs, ids, _, counts = candidate.run(batch)
    for row, item in enumerate(batch):
        _, wanted_ids, best, wanted_count = (output[0] for output in reference.run([item]))
        frames = int(wanted_count[0])
        got, got_ids = log_probs[row, :frames], ids[row, :frames]
        if counts[row, 0] != frames or not np.isfinite(got).all():
            yield Difference(item.name, frames, 1.0, float("inf"), got_ids[:0], wanted_ids)
            continue
        chosen = np.take_along_axis(got, wanted_ids[:, None].astype(np.int64), axis=1)[:, 0]
        changed, furthest = float(np.mean(got_ids != wanted_ids)), float(np.abs(chosen - best).max())
        yield Difference(item.name, frames, changed, furthest, got_ids, wanted_ids)


def compare_graphs(
    reference: OfflineGraph, candidate: OfflineGraph, utterances: Sequence[GateUtterance], limits: Limits
) -> Report:
    """Compare ``candidate`` with ``reference`` on real audio, and on what half precision is bad at.

    The reference's transcript stands for a text that is missing. Raises nothing: read `Report.passed`.
    """
    from tqdm import tqdm

    found = [
        next(_differences(reference, candidate, [item]))
        for item in tqdm(utterances, "precision gate", leave=False)
    ]
    stressed = [
        difference
        for batch in stress_batches(utterances, reference.max_frames)
        for difference in _differences(reference, candidate, batch)
    ]
    cer = cer_of(found, utterances, reference.vocabulary)
    joined = worst_share(stressed)
    return Report(
        [
            Figure("frames whose best token changes", disagreement(found), limits.disagreement),
            Figure(f"the same, {LONG_FRAMES} frames, padded batch", joined, 3 * limits.disagreement),
            Figure(f"CER rise, {len(found)} utterances", max(0.0, cer[1] - cer[0]), limits.cer_rise),
        ],
        worst_of([*found, *stressed]),
        cer,
    )


def lower_precision(
    model: Any, graph: Path, vocabulary: Vocabulary, max_frames: int, options: ExportOptions
) -> dict[str, float]:
    """Replace the fp32 ``graph`` by one of the options' precision that passes its gate; its figures.

    UserError, and the graph is left, when it does not pass.
    """
    from ko_asr.export.lowering import quantize, refuse_or_report
    from ko_asr.export.offline.graph import export_encoder

    candidate = graph.with_name(f"{options.precision}.onnx")
    if options.precision == "fp16":
        export_encoder(model, candidate, max_frames, half=True)
    else:
        quantize(graph, candidate, options.target, calibration_feeds(options.calibration))
    fp32, lowered = (OfflineGraph(path, vocabulary, max_frames) for path in (graph, candidate))
    report = compare_graphs(fp32, lowered, options.gate, options.allowed)
    figures = refuse_or_report(f"{options.precision} against fp32", report, (fp32, lowered), options)
    candidate.replace(graph)
    return figures
