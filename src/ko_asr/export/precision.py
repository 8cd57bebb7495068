"""Lower precisions of the encoder graph, and the gate that each must pass on real audio.

The precision lives in the graph, never in a builder's flags (TensorRT 11 has none left):

- ``fp16`` is exported in half by `onnx_export.export_encoder`, with integer lengths and a float32 softmax;
- ``int8`` for ONNX Runtime is dynamic: weights int8 a channel, activations quantised as they come. Nothing is
  calibrated, and on CPUs with VNNI it is the fastest;
- ``int8`` for TensorRT is explicit (Q/DQ, symmetric, zero points 0), calibrated on manifest audio; TensorRT
  rejects dynamic int8, and Q/DQ gains nothing in ONNX Runtime on a CPU.

Only linear layers are quantised: the subsampling, attention products and the CTC head stay as they are.
`ko_asr.export.streaming.precision` does the same for the streaming graph.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.errors import UserError
from ko_asr.export.parity import Figure
from ko_asr.runtime import ctc, tensors
from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.log_mel import LogMel

PRECISIONS = ("fp32", "fp16", "int8")
OUTPUTS = [tensors.LOG_PROBS, tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH]
LONG_FRAMES = 2051  # odd and above 2048, where half precision can no longer count
_LAYER_END = "/norms.4/LayerNormalization"  # of `fused_encoder.Layer`


@dataclass(frozen=True)
class Limits:
    """What a precision may cost."""

    disagreement: float  # share of frames whose best token changes, over all utterances
    cer_rise: float  # absolute, of the gate manifest


LIMITS = {"fp16": Limits(0.005, 0.001), "int8": Limits(0.03, 0.005)}


@dataclass(frozen=True)
class Utterance:
    """A piece of gate audio: its name for messages, features [mels, frames], what was said if known."""

    name: str
    features: np.ndarray
    text: str | None = None


def read_utterances(manifest: Path, log_mel: LogMel, rate: int, limit: int, longest: int) -> list[Utterance]:
    """Up to ``limit`` utterances of at most ``longest`` frames, spread over it. UserError if none."""
    from ko_asr.audio.read import read_segment
    from ko_asr.data.manifest import read_manifest

    entries = list(read_manifest(manifest))
    step = max(1, len(entries) // limit)
    found = []
    for entry in entries[::step][:limit]:
        audio = read_segment(entry, rate).astype(np.float32)
        if len(audio) >= log_mel.min_samples and log_mel.frames(len(audio)) <= longest:
            found.append(Utterance(entry["audio_filepath"], log_mel(audio), entry.get("text")))
    if not found:
        raise UserError(f"{manifest} holds no utterance that the model can take: give another manifest")
    return found


# ---- int8 graphs --------------------------------------------------------------------------------


def _without_shapes(graph: Path) -> Any:
    """The model without inferred shapes: the quantiser turns weights round and trips over old ones."""
    import onnx

    model = onnx.load(str(graph))
    del model.graph.value_info[:]
    return model


def _quantised(model: Any) -> list[str]:
    """Names of the linear layers to quantise: neither the subsampling's nor the head."""
    linear = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    return linear[1:-1]


def quantize_for_cpu(graph: Path, out: Path) -> None:
    """Dynamic int8 of ``graph`` for ONNX Runtime on a CPU."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = _without_shapes(graph)
    chosen = _quantised(model)
    quantize_dynamic(
        model,
        str(out),
        op_types_to_quantize=["Gemm", "MatMul"],
        nodes_to_quantize=[f"{name}_MatMul" for name in chosen],  # what the quantiser calls them by then
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


def quantize_for_tensorrt(graph: Path, out: Path, calibration: Sequence[Utterance]) -> None:
    """Explicit int8 (Q/DQ) of ``graph``, its ranges from the largest activations over ``calibration``."""
    quantize_over(graph, out, (_feed([utterance.features]) for utterance in calibration))


def quantize_over(graph: Path, out: Path, feeds: Iterable[dict[str, np.ndarray]]) -> None:
    """Explicit int8 (Q/DQ) of ``graph``, its ranges from the largest activations over ``feeds``.

    One feed is held at a time: of each only the ranges are kept.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Feeds(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    model = _without_shapes(graph)
    chosen = _quantised(model)
    quantize_static(
        model,
        str(out),
        Feeds(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=["Gemm"],
        nodes_to_quantize=chosen,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={
            # TensorRT takes no zero point but 0 and no int32 bias.
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            # A layer's output stays as it was summed. One range for the queries and the position scores of
            # the streaming graph changed the best token of 2.9 % of the demo's frames; without it, 0.4 %.
            "OpTypesToExcludeOutputQuantization": ["Gemm"],
        },
    )


# ---- the gate -----------------------------------------------------------------------------------


def _feed(features: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """One padded batch; padding holds noise, so that a mask that leaks is seen."""
    lengths = [item.shape[1] for item in features]
    batch = np.random.default_rng(0).standard_normal((len(features), len(features[0]), max(lengths)))
    batch = batch.astype(np.float32)
    for row, item in enumerate(features):
        batch[row, :, : item.shape[1]] = item
    return {tensors.FEATURES: batch, tensors.LENGTH: np.array(lengths, np.int64)[:, None]}


def session(graph: str | bytes | Path) -> Any:
    """An ONNX Runtime session on the CPU."""
    import onnxruntime

    source = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Difference:
    """One row of a batch in both graphs: share of frames whose best token changed, and the largest change of
    the best token's log-probability (infinite when lengths differ or a value is not finite)."""

    name: str
    frames: int
    disagreement: float
    log_prob: float
    ids: np.ndarray
    wanted_ids: np.ndarray


def differences(reference: Any, candidate: Any, batch: Sequence[Utterance]) -> Iterator[Difference]:
    """Each utterance of ``batch``, padded together in ``candidate`` and alone in ``reference`` (sessions)."""
    log_probs, ids, _, counts = candidate.run(OUTPUTS, _feed([item.features for item in batch]))
    for row, item in enumerate(batch):
        _, wanted_ids, best, wanted_count = (a[0] for a in reference.run(OUTPUTS, _feed([item.features])))
        frames = int(wanted_count[0])
        got = log_probs[row, :frames]
        if counts[row, 0] != frames or not np.isfinite(got).all():
            yield Difference(item.name, frames, 1.0, float("inf"), ids[row, :0], wanted_ids)
            continue
        chosen = np.take_along_axis(got, wanted_ids[:, None].astype(np.int64), axis=1)[:, 0]
        changed = float(np.mean(ids[row, :frames] != wanted_ids))
        yield Difference(
            item.name, frames, changed, float(np.abs(chosen - best).max()), ids[row, :frames], wanted_ids
        )


def layer_errors(reference: Path, candidate: Path, item: Utterance) -> dict[str, float]:
    """Relative error ``|a - b| / |a|`` after each encoder layer, on one utterance."""
    return relative_errors(*(_layer_outputs(graph, item) for graph in (reference, candidate)))


def relative_errors(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """``|a - b| / |a|`` of every layer that both have."""
    return {
        name: float(np.linalg.norm(value - theirs[name]) / (np.linalg.norm(value) + 1e-30))
        for name, value in ours.items()
        if name in theirs
    }


def _layer_outputs(graph: Path, item: Utterance) -> dict[str, np.ndarray]:
    model, layers = with_layer_outputs(graph, _LAYER_END)
    values = session(model).run(list(layers), _feed([item.features]))
    return {name: value.astype(np.float64) for name, value in zip(layers.values(), values, strict=True)}


def with_layer_outputs(graph: Path, layer_end: str) -> tuple[bytes, dict[str, str]]:
    """``graph`` with a further output after each layer, and which layer each such output belongs to.

    The last node of a layer is called "…/layers.3" + ``layer_end``.
    """
    import onnx

    model = onnx.load(str(graph))
    ends = {node.output[0]: node.name for node in model.graph.node if node.name.endswith(layer_end)}
    for output in ends:
        model.graph.output.append(onnx.ValueInfoProto(name=output))
    layers = {
        output: name.removesuffix(layer_end).rpartition("/")[2].replace("layers.", "layer ")
        for output, name in ends.items()
    }
    return model.SerializeToString(), layers


def stress_batches(utterances: Sequence[Utterance], max_frames: int) -> list[list[Utterance]]:
    """An odd length above 2048 frames (as far as ``max_frames`` goes), alone and padded with short ones."""
    joined = np.concatenate([item.features for item in utterances], axis=1)
    wanted = min(LONG_FRAMES, max_frames - 1 + max_frames % 2)
    joined = np.tile(joined, (1, -(-wanted // joined.shape[1])))
    pieces = [wanted, max(9, wanted * 3 // 8), max(9, wanted // 32), 9]
    cut = [Utterance(f"{frames} frames joined", joined[:, :frames]) for frames in pieces]
    return [cut[:1], cut]


@dataclass(frozen=True)
class Report:
    """What a precision costs: figures for the contract, and the utterances from best to worst."""

    figures: list[Figure]
    worst: Difference
    cer: tuple[float, float]  # of the reference graph, of the candidate

    @property
    def passed(self) -> bool:
        """Whether every figure is within its limit."""
        return all(figure.passed for figure in self.figures)


def _texts(found: Sequence[Difference], vocabulary: Vocabulary, ours: bool) -> list[str]:
    blank = len(vocabulary.pieces)
    return [
        vocabulary.text(token.id for token in ctc.collapse(item.ids if ours else item.wanted_ids, blank))
        for item in found
    ]


def _cer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    from ko_asr.evaluation.metrics import score

    return float(score(references, hypotheses).total("cer").rate)


def cer_of(
    found: Sequence[Difference], utterances: Sequence[Utterance], vocabulary: Vocabulary
) -> tuple[float, float]:
    """CER of the reference graph and of the candidate; without a text, what the former hears was said."""
    wanted, got = (_texts(found, vocabulary, side) for side in (False, True))
    said = [item.text or heard for item, heard in zip(utterances, wanted, strict=True)]
    return _cer(said, wanted), _cer(said, got)


def disagreement(found: Sequence[Difference]) -> float:
    """Share of all frames whose best token changes."""
    frames = sum(item.frames for item in found)
    return sum(item.disagreement * item.frames for item in found) / max(frames, 1)


def worst_share(found: Sequence[Difference]) -> float:
    """Largest share of one row's frames whose best token changes.

    One frame of each is let pass: the shortest rows have three, and a change in one of them says nothing.
    """
    return max(
        1.0 if item.log_prob == float("inf") else max(0.0, item.disagreement - 1.0 / max(item.frames, 1))
        for item in found
    )


def worst_of(found: Sequence[Difference]) -> Difference:
    """The difference to show: of another length or not finite, else with the most frames changed."""
    return max(found, key=lambda item: (item.log_prob == float("inf"), item.disagreement))


def check(
    reference: Path,
    candidate: Path,
    utterances: Sequence[Utterance],
    vocabulary: Vocabulary,
    max_frames: int,
    limits: Limits,
) -> Report:
    """Compare graph ``candidate`` with ``reference`` on real audio.

    Utterances without a text count as said what ``reference`` hears. Raises nothing: read `Report.passed`.
    """
    from tqdm import tqdm

    ours, theirs = session(reference), session(candidate)
    found = [
        next(differences(ours, theirs, [item])) for item in tqdm(utterances, "precision gate", leave=False)
    ]
    stressed = [
        d for batch in stress_batches(utterances, max_frames) for d in differences(ours, theirs, batch)
    ]
    cer = cer_of(found, utterances, vocabulary)
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


def refusal(
    report: Report, reference: Path, candidate: Path, utterances: Sequence[Utterance], max_frames: int
) -> str:
    """Why ``report`` does not pass: the figure, the worst utterance and the layer that adds most error."""
    item = worst_utterance(report, utterances, max_frames)
    return sentence(report, item, layer_errors(reference, candidate, item))


def worst_utterance(report: Report, utterances: Sequence[Utterance], max_frames: int) -> Utterance:
    """The audio of the worst difference of ``report``."""
    pool = [*utterances, *(item for batch in stress_batches(utterances, max_frames) for item in batch)]
    return next(item for item in pool if item.name == report.worst.name)


def sentence(report: Report, item: Utterance, errors: dict[str, float]) -> str:
    """What fails, on which audio, and after which layer; ``errors`` are those of `layer_errors`."""
    growth = dict(zip(errors, np.diff([0.0, *errors.values()]), strict=True))
    broken = [name for name, value in errors.items() if not np.isfinite(value)]
    layer = broken[0] if broken else max(growth, key=lambda name: growth[name])
    failed = "; ".join(
        f"{f.name} {f.value:.2%} (limit {f.limit:.2%})" for f in report.figures if not f.passed
    )
    return (
        f"{failed}; worst on {item.name}, where the error grows most at {layer} "
        f"(relative error {errors[layer]:.2g} after it)"
    )
