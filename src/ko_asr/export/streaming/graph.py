"""A cache-aware .nemo as one ONNX graph a look-ahead, with contract and front end, checked against NeMo.

In a lower precision the graph is checked twice: in fp32 against NeMo, then against that on real audio.
"""

import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.errors import UserError
from ko_asr.export.streaming.chunks import frames_of_clips, windows
from ko_asr.export.streaming.precision import Purpose
from ko_asr.export.to_onnx import to_onnx
from ko_asr.provenance import sha256
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import STREAM_INPUTS, STREAM_OUTPUTS

TOP_K = 8
LIMIT = 1e-3  # largest difference from NeMo allowed, in log-probabilities
# Log-mel frames of the streams compared: one frame, ends at every place of a chunk, odd above 2048.
LENGTHS = (1, 2, 9, 64, 201, 202, 203, 204, 205, 206, 207, 333, 2051)


def export_streaming(
    model: Any,
    folder: str | Path,
    look_ahead: int | None = None,
    top_k: int = TOP_K,
    source: Path | None = None,
    purpose: Purpose | None = None,
) -> StreamingContract:
    """Write ``folder``: model.onnx, its contract and the front end, for one look-ahead in encoder frames.

    ``model`` is a .nemo's path or a stock EncDecCTCModelBPE restored from ``source``; without ``look_ahead``
    the model's first one is taken. Streams of `LENGTHS` through ONNX Runtime must equal NeMo's full forward
    pass within `LIMIT`, and the precision of ``purpose`` (default: fp32) must cost no more than its limits.
    UserError, and nothing is written, when that fails or the model cannot stream exactly.
    """
    from ko_asr.models.front_end import log_mel_of

    purpose = purpose or Purpose()
    path = Path(model) if isinstance(model, str | os.PathLike) else source
    model = restored(model)
    graph, contract = streaming_graph(model, path, look_ahead, top_k)
    contract = replace(contract, target=purpose.target, max_batch_size=purpose.max_batch_size)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as staging:
        staged = Path(staging)
        export_graph(graph, contract, staged / file_names.GRAPH)
        contract = replace(contract, parity=check_streams(model, contract, staged / file_names.GRAPH))
        if purpose.precision != "fp32":
            contract = lower_precision(model, contract, staged / file_names.GRAPH, purpose)
        contract = replace(contract, onnx_sha256=sha256(staged / file_names.GRAPH))
        log_mel_of(model).save(staged / file_names.LOG_MEL)
        (staged / file_names.STREAM_CONTRACT).write_text(contract.dump(), encoding="utf-8")
        for name in (
            file_names.LOG_MEL,
            file_names.GRAPH,
            file_names.STREAM_CONTRACT,
        ):  # the contract last: it says that all is there
            os.chmod(staged / name, 0o644)
            os.replace(staged / name, folder / name)
    return contract


def lower_precision(
    model: Any, contract: StreamingContract, path: Path, purpose: Purpose
) -> StreamingContract:
    """Replace the fp32 graph at ``path`` by one of the purpose's precision that passes its gate.

    Returns its contract, with the gate's figures. UserError when it does not pass, and the graph is left.
    """
    from ko_asr.export import precision as low
    from ko_asr.export.streaming import precision as streams
    from ko_asr.export.streaming.encoder import StreamingCTC

    kind, lowered = purpose.precision, replace(contract, precision=purpose.precision)
    candidate = path.with_name(f"{kind}.onnx")
    if kind == "fp16":
        half = StreamingCTC(model, contract.look_ahead, contract.top_k, half=True).eval()
        export_graph(half, lowered, candidate)
    elif purpose.target == "tensorrt":
        streams.quantize_for_tensorrt(path, candidate, contract, purpose.calibration)
    else:
        low.quantize_for_cpu(path, candidate)
    graphs = streams.Graph(path, contract), streams.Graph(candidate, lowered)
    report = streams.check(*graphs, purpose.gate, purpose.limits or low.LIMITS[kind])
    if purpose.told:
        purpose.told(lowered, report)
    if not report.passed:
        reason = streams.refusal(report, *graphs, purpose.gate)
        raise UserError(f"{kind} costs too much: {reason}; nothing was written")
    candidate.replace(path)
    figures = {f"{kind}: {figure.name}": figure.value for figure in report.figures}
    return replace(lowered, parity=contract.parity | figures)


def add_log_mel_graph(folder: Path, contract: StreamingContract) -> StreamingContract:
    """Add the log-mel graph to what `export_streaming` wrote into ``folder``; the contract that says so.

    UserError when its windows differ from the numpy front end's.
    """
    from ko_asr.export import log_mel as logmel_graph
    from ko_asr.export.parity import check_streaming_log_mel
    from ko_asr.export.streaming.backend import front_end_of

    log_mel = front_end_of(folder)
    graph = folder / file_names.LOG_MEL_GRAPH
    logmel_graph.export_streaming(log_mel, contract, graph)
    figures = check_streaming_log_mel(log_mel, contract, graph)
    if failed := [figure for figure in figures if not figure.passed]:
        worst = max(failed, key=lambda figure: figure.value)
        raise UserError(
            f"the log-mel graph differs from the numpy front end by {worst.value:.1e} ({worst.name}), "
            f"above {worst.limit}: nothing was written"
        )
    parity = contract.parity | {figure.name: figure.value for figure in figures}
    contract = replace(contract, front_end="graph", parity=parity)
    (folder / file_names.STREAM_CONTRACT).write_text(contract.dump(), encoding="utf-8")
    return contract


def restored(model: Any) -> Any:
    """The model itself, or the one at this path; UserError when it is none that we export."""
    if not isinstance(model, str | os.PathLike):
        return model
    from ko_asr.models.nemo_file import load_exportable_model

    return load_exportable_model(Path(model))


def streaming_graph(
    model: Any, path: Path | None, look_ahead: int | None, top_k: int = TOP_K
) -> tuple[Any, StreamingContract]:
    """The torch module of a chunk and the contract that describes it."""
    from ko_asr.export.streaming.encoder import StreamingCTC
    from ko_asr.models.vocabulary import find_vocabulary

    encoder, featurizer = model.encoder, model.preprocessor.featurizer
    right = int(encoder.att_context_size_all[0][1]) if look_ahead is None else look_ahead
    graph = StreamingCTC(model, right, top_k).eval()
    vocabulary = find_vocabulary(model.tokenizer.tokenizer)
    contract = StreamingContract(
        export_id=secrets.token_hex(8),
        model=path.name if path else type(model).__name__,
        model_sha256=sha256(path) if path else "",
        onnx_sha256="",
        vocabulary=vocabulary.to_json(),
        blank_id=len(vocabulary.pieces),
        mels=int(featurizer.nfilt),
        sample_rate=int(featurizer.sample_rate),
        hop=int(featurizer.hop_length),
        window_samples=int(featurizer.win_length),
        subsampling=graph.factor,
        left=graph.left,
        look_ahead=right,
        look_aheads=[int(context[1]) for context in encoder.att_context_size_all],
        top_k=graph.top_k,
        layers=len(encoder.layers),
        d_model=int(encoder.d_model),
        kernel=int(encoder.conv_context_size[0]) + 1,
        versions={name: version(name) for name in ("nemo-toolkit", "torch", "onnx")},
    )
    return graph, contract


def export_graph(graph: Any, contract: StreamingContract, path: Path) -> None:
    """Write the ONNX graph; only the batch is a dynamic axis, named ``batch``."""
    import torch

    states = [
        torch.zeros([2, *state["shape"]], dtype=getattr(torch, state["dtype"])) for state in contract.states
    ]
    window = contract.window_frames
    example = (torch.zeros(2, contract.mels, window), torch.tensor([[window], [window - 1]]), *states)
    to_onnx(graph, example, path, STREAM_INPUTS, (*STREAM_OUTPUTS, tensors.LOG_PROBS))


def check_streams(model: Any, contract: StreamingContract, path: Path) -> dict[str, float]:
    """Largest difference of log-probabilities between streams through ONNX Runtime and NeMo's full forward.

    All streams run in one batch, at different places of their audio. UserError above `LIMIT`.
    """
    from ko_asr.export.streaming.backend import OnnxBackend
    from ko_asr.models.reference import reference_log_probs

    generator = np.random.default_rng(0)
    clips = [generator.normal(-6, 3, (contract.mels, length)).astype(np.float32) for length in LENGTHS]
    got = stream_features(OnnxBackend(path, contract), clips)
    model.encoder.set_default_att_context_size([_left(model, contract.look_ahead), contract.look_ahead])
    figures = {}
    for clip, mine in zip(clips, got, strict=True):
        wanted = reference_log_probs(model, clip[None], [clip.shape[1]])[0]
        same = mine.shape == wanted.shape
        figures[f"log-probs, {clip.shape[1]} frames"] = (
            float(np.abs(mine - wanted).max()) if same else float("inf")
        )
    worst = max(figures, key=lambda name: figures[name])
    if not figures[worst] <= LIMIT:
        raise UserError(
            f"the streaming graph differs from NeMo by {figures[worst]:.1e} ({worst}), above {LIMIT}: "
            "nothing was written"
        )
    return figures


def _left(model: Any, look_ahead: int) -> int:
    return next(int(left) for left, right in model.encoder.att_context_size_all if right == look_ahead)


def stream_features(backend: Any, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities [frames, V + 1] of log-mel ``clips`` [mels, T], streamed together in chunks."""
    state = backend.zeros(len(clips))
    parts = []
    for window, length in windows(backend.contract, clips):
        log_probs, state = backend.log_probs(window, length, state)
        parts.append(log_probs)
    joined = np.concatenate(parts, axis=1)
    counts = frames_of_clips(backend.contract, clips)
    return [row[:count] for row, count in zip(joined, counts, strict=True)]
