"""Backends that compute a chunk for a batch of streams: ONNX Runtime, or torch.

A state is one object for a whole batch. As long as the same streams come together in the same order, the
state of one chunk goes into the next without being copied; `gather` copies rows when the batch has changed.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ko_asr.errors import UserError
from ko_asr.export.session import open_session
from ko_asr.provenance import sha256
from ko_asr.runtime import file_names
from ko_asr.runtime.log_mel import LogMel
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import FEATURES, LENGTH, LOG_PROBS, STATE_INPUTS, STATE_OUTPUTS, STREAM_OUTPUTS


class Chunk(NamedTuple):
    """Best tokens of a batch: ids int32 and log-probabilities [B, chunk, K], valid frames int64 [B]."""

    ids: np.ndarray
    log_probs: np.ndarray
    counts: np.ndarray


class Backend(ABC):
    """The streaming graph of one look-ahead."""

    contract: StreamingContract

    @abstractmethod
    def zeros(self, rows: int) -> Any:
        """Make the state of ``rows`` streams before their first chunk."""

    @abstractmethod
    def gather(self, rows: Sequence[tuple[Any, int]]) -> Any:
        """Make a new state of the given rows, each a (state, row) of an older one."""

    @abstractmethod
    def step(self, features: np.ndarray, length: np.ndarray, state: Any) -> tuple[Chunk, Any]:
        """Compute a chunk: ``features`` [B, mels, window], ``length`` int64 [B, 1] valid ones of each.

        Returns its best tokens and the state after it.
        """

    @abstractmethod
    def log_probs(self, features: np.ndarray, length: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """Compute a chunk as `step` does, for all log-probabilities [B, chunk, V + 1]: to compare graphs."""


class OnnxBackend(Backend):
    """ONNX Runtime on the CPU; needs neither torch nor NeMo."""

    def __init__(self, model: Path, contract: StreamingContract, threads: int = 1) -> None:
        import onnxruntime

        try:
            self._session = open_session(model, threads)
        except Exception as error:  # its own kinds, which its package does not export
            reason = str(error).splitlines()[0][:200]
            raise UserError(f"{model} is no ONNX graph that runs ({reason}): export it again") from error
        self._value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.contract = contract

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "OnnxBackend":
        """An exported folder. UserError when it is not whole, or a mixture of two exports."""
        contract = StreamingContract.load(folder)
        model = folder / file_names.GRAPH
        if not model.is_file() or sha256(model) != contract.onnx_sha256:
            raise UserError(f"{model} is not the graph that its contract describes: export the model again")
        return cls(model, contract, threads)

    def zeros(self, rows: int) -> Any:
        return [
            self._value(np.zeros([rows, *state["shape"]], state["dtype"])) for state in self.contract.states
        ]

    def gather(self, rows: Sequence[tuple[Any, int]]) -> Any:
        return [
            self._value(np.stack([state[index].numpy()[row] for state, row in rows]))
            for index in range(len(STATE_INPUTS))
        ]

    def step(self, features: np.ndarray, length: np.ndarray, state: Any) -> tuple[Chunk, Any]:
        ids, log_probs, counts, *after = self._run(STREAM_OUTPUTS, features, length, state)
        return Chunk(ids.numpy(), log_probs.numpy(), counts.numpy()[:, 0]), after

    def log_probs(self, features: np.ndarray, length: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        log_probs, *after = self._run((LOG_PROBS, *STATE_OUTPUTS), features, length, state)
        return log_probs.numpy(), after

    def _run(self, outputs: Sequence[str], features: np.ndarray, length: np.ndarray, state: Any) -> list[Any]:
        feed = {FEATURES: self._value(features), LENGTH: self._value(length)}
        feed |= dict(zip(STATE_INPUTS, state, strict=True))
        return self._session.run_with_ort_values(list(outputs), feed)


class TorchBackend(Backend):
    """The same graph in torch, without an export."""

    def __init__(self, graph: Any, contract: StreamingContract, threads: int = 1) -> None:
        import torch

        torch.set_num_threads(threads)
        self._graph, self.contract = graph, contract

    def zeros(self, rows: int) -> Any:
        import torch

        return [
            torch.zeros([rows, *state["shape"]], dtype=getattr(torch, state["dtype"]))
            for state in self.contract.states
        ]

    def gather(self, rows: Sequence[tuple[Any, int]]) -> Any:
        import torch

        return [torch.stack([state[i][row] for state, row in rows]) for i in range(len(STATE_INPUTS))]

    def step(self, features: np.ndarray, length: np.ndarray, state: Any) -> tuple[Chunk, Any]:
        ids, best, counts, *after, _ = self._run(features, length, state)
        return Chunk(ids.numpy(), best.numpy(), counts.numpy()[:, 0]), after

    def log_probs(self, features: np.ndarray, length: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        _, _, _, *after, log_probs = self._run(features, length, state)
        return log_probs.numpy(), after

    def _run(self, features: np.ndarray, length: np.ndarray, state: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self._graph(torch.from_numpy(features), torch.from_numpy(length), *state)


def front_end_of(folder: Path) -> LogMel:
    """The log-mel front end of an exported folder. UserError when it is missing or broken."""
    try:
        return LogMel.load(folder / file_names.LOG_MEL)
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f"{folder / file_names.LOG_MEL} is missing or broken: export the model again"
        ) from error
