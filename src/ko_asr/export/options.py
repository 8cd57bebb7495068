"""What an export is for: who runs the graph, in which precision, and the speech that judges it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ko_asr.export.figures import Figure
from ko_asr.export.precision import LIMITS, GateUtterance, Limits, Report, read_utterances
from ko_asr.runtime.silence import SILENCE_DBFS


def _ignore(*_: object) -> None:
    """Take a report and do nothing with it."""


@dataclass(frozen=True)
class ExportOptions:
    """What a graph is exported for; offline and streaming models take the same."""

    target: str = "onnx"  # what runs it, "onnx" or "tensorrt"
    precision: str = "fp32"
    front_end: str = "numpy"  # what computes its features, "numpy" or "graph"
    max_batch_size: int | None = None  # rows of a batch in the server; None: 8, of streams 32
    max_seconds: float = 60.0  # longest audio of an offline request, and of an utterance of the gate
    silence_dbfs: float | None = SILENCE_DBFS  # offline audio below it has no words; None: no limit
    look_aheads: Sequence[int] = ()  # of a cache-aware model, the default one first; (): the model's first
    limits: Limits | None = None  # those of the precision, if None
    gate: Sequence[GateUtterance] = ()  # judges fp16 and int8
    calibration: Sequence[GateUtterance] = ()  # sets the ranges of int8 for TensorRT
    # Both are called with what was measured, good or bad, before an error about it is raised: the offline
    # graphs' differences from NeMo, and what the precision costs, under a title such as "int8 against fp32".
    on_figures: Callable[[Sequence[Figure]], None] = _ignore
    on_report: Callable[[str, Report], None] = _ignore

    @property
    def allowed(self) -> Limits:
        """What the precision may cost."""
        return self.limits or LIMITS[self.precision]


def with_speech(
    options: ExportOptions, model: Any, gate: Path | None, calibration: Path | None, count: int = 200
) -> ExportOptions:
    """``options`` with up to ``count`` utterances of each manifest that their precision asks for.

    UserError when a manifest holds none that the model can take.
    """
    from ko_asr.models.front_end import log_mel_of

    if options.precision == "fp32":
        return options
    log_mel, rate = log_mel_of(model), int(model.preprocessor.featurizer.sample_rate)
    longest = log_mel.frames(int(options.max_seconds * rate))
    calibrated = options.precision == "int8" and options.target == "tensorrt"
    judging, setting = (
        read_utterances(manifest, log_mel, rate, count, longest) if manifest else []
        for manifest in (gate, calibration if calibrated else None)
    )
    return replace(options, gate=judging, calibration=setting)
