"""The models of a repository, read where `export/to_triton.py` has put them."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ko_asr.errors import UserError
from ko_asr.export.session import open_session
from ko_asr.export.streaming.backend import OnnxBackend, front_end_of
from ko_asr.provenance import sha256
from ko_asr.recognition.streaming import StreamingRecognizer
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.file_decoder import FileDecoder
from ko_asr.runtime.file_front_end import FrontEnd
from ko_asr.runtime.model_contract import ModelContract

_VERSION = "1"
C = TypeVar("C", bound=ModelContract)
_BEST_RANK = 3  # of the best tokens, [B, T, K]


@dataclass(frozen=True)
class Recordings:
    """The offline model: ``session`` of ONNX Runtime between its front end and its decoder."""

    contract: Contract
    front_end: FrontEnd
    session: Any  # onnxruntime.InferenceSession
    decoder: FileDecoder


def check_runtime() -> None:
    """Raise UserError where ONNX Runtime is missing."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError("--engine embedded needs ONNX Runtime: install it with make setup-embedded")


def load_recordings(repository: Path) -> Recordings:
    """Load the offline model. UserError when it is missing, or not one that this process runs."""
    encoder, front_end = (repository / name / _VERSION for name in (tensors.ENCODER, tensors.PREPROCESSOR))
    contract = _contract(Contract, encoder, front_end)
    if sha256(encoder / file_names.GRAPH) != contract.onnx_sha256:
        raise UserError(f"{encoder} holds not the graph that its contract describes: export the model again")
    session = open_session(encoder / file_names.GRAPH, threads=1)
    if len(session.get_outputs()[0].shape) != _BEST_RANK:
        raise UserError(f"{encoder} gives one token a frame, as older exports do: export the model again")
    return Recordings(contract, FrontEnd(contract, front_end), session, FileDecoder(contract))


def load_streams(repository: Path, max_batch: int, count: int) -> list[StreamingRecognizer]:
    """Load the streaming model once for ``count`` recognizers; none where the repository has none.

    UserError as `load_recordings`.
    """
    encoder, front_end = (
        repository / name / _VERSION for name in (tensors.STREAM_ENCODER, tensors.STREAM_PREPROCESSOR)
    )
    if not encoder.is_dir():
        return []
    backend = OnnxBackend.load(encoder)
    _check(backend.contract, front_end)
    log_mel = front_end_of(front_end)
    return [StreamingRecognizer(backend, log_mel, max_batch, time_to_live=None) for _ in range(count)]


def _contract(kind: type[C], encoder: Path, front_end: Path) -> C:
    contract = kind.load(encoder)
    _check(contract, front_end)
    return contract


def _check(contract: ModelContract, front_end: Path) -> None:
    """Raise UserError for a model that another engine runs, or one of two exports."""
    if contract.target != "onnx" or contract.front_end != "numpy":
        raise UserError(
            f"{contract.model} was exported with target={contract.target} front_end={contract.front_end}: "
            "--engine embedded runs target=onnx front_end=numpy, so export it again"
        )
    if (other := type(contract).load(front_end).export_id) != contract.export_id:
        raise UserError(
            f"{front_end} is of export {other}, its encoder of {contract.export_id}: "
            "fill the repository again with python export/to_triton.py"
        )
