"""One look-ahead of a cache-aware model as a folder: the graph, its contract and the front end.

`ko_asr.recognition.streaming` runs such a folder without torch; `ko_asr.serving.streaming` makes Triton's
model folders of it. In a lower precision the graph is checked twice: in fp32 against NeMo, then against that
on real audio.
"""

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.export.log_mel import export_streaming_log_mel
from ko_asr.export.options import ExportOptions
from ko_asr.export.streaming.backend import front_end_of
from ko_asr.export.streaming.graph import TOP_K, export_graph, streaming_graph
from ko_asr.export.streaming.parity import check_streaming_log_mel, check_streams
from ko_asr.export.streaming.precision import lower_precision
from ko_asr.provenance import sha256
from ko_asr.runtime import file_names
from ko_asr.runtime.stream_contract import StreamingContract

# The contract last: it says that all is there.
_FILES = (file_names.LOG_MEL, file_names.GRAPH, file_names.STREAM_CONTRACT)


def export_look_ahead(
    model: Any,
    folder: str | Path,
    look_ahead: int | None = None,
    top_k: int = TOP_K,
    source: Path | None = None,
    options: ExportOptions | None = None,
) -> StreamingContract:
    """Write ``folder``: model.onnx, its contract and the front end, for one look-ahead in encoder frames.

    ``model`` is a .nemo's path or a stock EncDecCTCModelBPE restored from ``source``; without ``look_ahead``
    the model's first one is taken. Streams of `parity.LENGTHS` through ONNX Runtime must equal NeMo's full
    forward pass, and the precision of ``options`` (default: fp32) must cost no more than its limits.
    UserError, and nothing is written, when that fails or the model cannot stream exactly.
    """
    options = options or ExportOptions()
    path = Path(model) if isinstance(model, str | os.PathLike) else source
    model = restored(model)
    graph, contract = streaming_graph(model, path, look_ahead, top_k)
    size = options.max_batch_size or contract.max_batch_size
    contract = replace(contract, target=options.target, max_batch_size=size)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as staging:
        staged = Path(staging)
        export_graph(graph, contract, staged / file_names.GRAPH)
        contract = _checked(model, contract, staged, options)
        for name in _FILES:
            os.chmod(staged / name, 0o644)
            os.replace(staged / name, folder / name)
    return contract


def restored(model: Any) -> Any:
    """The model itself, or the one at this path; UserError when it is none that we export."""
    if not isinstance(model, str | os.PathLike):
        return model
    from ko_asr.models.nemo_file import load_exportable_model

    return load_exportable_model(Path(model))


def _checked(
    model: Any, contract: StreamingContract, staged: Path, options: ExportOptions
) -> StreamingContract:
    """Put the graph in ``staged`` through its gates and write contract and front end beside it."""
    from ko_asr.models.front_end import log_mel_of

    graph = staged / file_names.GRAPH
    contract = replace(contract, parity=check_streams(model, contract, graph))
    if options.precision != "fp32":
        contract = lower_precision(model, graph, contract, options)
    contract = replace(contract, onnx_sha256=sha256(graph))
    log_mel_of(model).save(staged / file_names.LOG_MEL)
    (staged / file_names.STREAM_CONTRACT).write_text(contract.dump(), encoding="utf-8")
    return contract


def add_log_mel_graph(folder: Path, contract: StreamingContract) -> StreamingContract:
    """Add the log-mel graph to what `export_look_ahead` wrote into ``folder``; the contract that says so.

    UserError when its windows differ from the numpy front end's.
    """
    log_mel = front_end_of(folder)
    graph = folder / file_names.LOG_MEL_GRAPH
    export_streaming_log_mel(log_mel, contract, graph)
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
