"""Lower precisions of an encoder graph, and what both gates on real audio share.

The precision lives in the graph, never in a builder's flags (TensorRT 11 has none left):

- ``fp16`` is exported in half (`export_encoder`, `StreamingCTC`), with integer lengths and a float32 softmax;
- ``int8`` for ONNX Runtime is dynamic: weights int8 a channel, activations quantised as they come. Nothing is
  calibrated, and on CPUs with VNNI it is the fastest;
- ``int8`` for TensorRT is explicit (Q/DQ, symmetric, zero points 0), calibrated on manifest audio; TensorRT
  rejects dynamic int8, and Q/DQ gains nothing in ONNX Runtime on a CPU.

The gates are `ko_asr.export.offline.precision` and, chunk by chunk, `ko_asr.export.streaming.precision`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ko_asr.errors import UserError
from ko_asr.export.figures import Figure
from ko_asr.runtime import ctc
from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.log_mel import LogMel

LONG_FRAMES = 2051  # odd and above 2048, where half precision can no longer count


@dataclass(frozen=True)
class Limits:
    """The cost that a precision may have."""

    disagreement: float  # share of frames whose best token changes, over all utterances
    cer_rise: float  # absolute, of the gate manifest


LIMITS = {"fp16": Limits(0.005, 0.001), "int8": Limits(0.03, 0.005)}


@dataclass(frozen=True)
class GateUtterance:
    """A piece of gate audio: its name for messages, features [mels, frames], its transcript if known."""

    name: str
    features: np.ndarray
    text: str | None = None


def read_utterances(
    manifest: Path, log_mel: LogMel, rate: int, limit: int, longest: int
) -> list[GateUtterance]:
    """Read up to ``limit`` utterances of at most ``longest`` frames, spread over ``manifest``.

    UserError when it holds none.
    """
    from ko_asr.audio.read import read_segment
    from ko_asr.data.manifest import read_manifest

    entries = list(read_manifest(manifest))
    step = max(1, len(entries) // limit)
    found = []
    for entry in entries[::step][:limit]:
        audio = read_segment(entry, rate).astype(np.float32)
        if len(audio) >= log_mel.min_samples and log_mel.frames(len(audio)) <= longest:
            found.append(GateUtterance(entry["audio_filepath"], log_mel(audio), entry.get("text")))
    if not found:
        raise UserError(f"{manifest} holds no utterance that the model can take: give another manifest")
    return found


@dataclass(frozen=True)
class Difference:
    """One row of a batch in the reference graph and in the candidate; both give token ids [frames]."""

    name: str
    frames: int
    disagreement: float  # share of frames whose best token changed
    log_prob: float  # largest change of the best token's; infinite for another length or no finite number
    ids: np.ndarray
    wanted_ids: np.ndarray


class ComparedGraph(Protocol):
    """A graph that is compared, offline or streaming."""

    @property
    def max_frames(self) -> int:
        """The longest input that the gate may give it, in log-mel frames."""

    def layer_outputs(self, item: GateUtterance) -> dict[str, np.ndarray]:
        """Outputs [frames, d_model] float64 of each encoder layer for one utterance."""


def layer_errors(reference: ComparedGraph, candidate: ComparedGraph, item: GateUtterance) -> dict[str, float]:
    """Relative error ``|a - b| / |a|`` after each encoder layer that both have, on one utterance."""
    ours, theirs = reference.layer_outputs(item), candidate.layer_outputs(item)
    return {
        name: float(np.linalg.norm(value - theirs[name]) / (np.linalg.norm(value) + 1e-30))
        for name, value in ours.items()
        if name in theirs
    }


def with_layer_outputs(graph: Path, layer_end: str) -> tuple[bytes, dict[str, str]]:
    """Add an output after each layer of ``graph``: the serialised model, and the layer of each such output.

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


def stress_batches(utterances: Sequence[GateUtterance], max_frames: int) -> list[list[GateUtterance]]:
    """An odd length above 2048 frames (as far as ``max_frames`` goes), alone and padded with short ones."""
    joined = np.concatenate([item.features for item in utterances], axis=1)
    wanted = min(LONG_FRAMES, max_frames - 1 + max_frames % 2)
    joined = np.tile(joined, (1, -(-wanted // joined.shape[1])))
    pieces = [wanted, max(9, wanted * 3 // 8), max(9, wanted // 32), 9]
    cut = [GateUtterance(f"{frames} frames joined", joined[:, :frames]) for frames in pieces]
    return [cut[:1], cut]


@dataclass(frozen=True)
class Report:
    """The cost of a precision: figures for the contract, and the difference to show."""

    figures: list[Figure]
    worst: Difference
    cer: tuple[float, float]  # of the reference graph, of the candidate

    @property
    def passed(self) -> bool:
        """True when every figure is within its limit."""
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
    found: Sequence[Difference], utterances: Sequence[GateUtterance], vocabulary: Vocabulary
) -> tuple[float, float]:
    """CER of the reference graph and of the candidate.

    The reference graph's own transcript stands for the text of an utterance that has none.
    """
    wanted, got = (_texts(found, vocabulary, side) for side in (False, True))
    references = [item.text or text for item, text in zip(utterances, wanted, strict=True)]
    return _cer(references, wanted), _cer(references, got)


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


def refusal(
    report: Report, reference: ComparedGraph, candidate: ComparedGraph, utterances: Sequence[GateUtterance]
) -> str:
    """Say why ``report`` does not pass: the figure, the worst utterance, the layer that adds most error."""
    batches = [utterances, *stress_batches(utterances, reference.max_frames)]
    item = next(item for batch in batches for item in batch if item.name == report.worst.name)
    errors = layer_errors(reference, candidate, item)
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
