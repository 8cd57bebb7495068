"""The parts of NeMo's EncDecCTCModelBPE that this project uses, for type checkers.

Importing it costs nothing. NeMo has no type hints of its own. Whatever a signature calls `NemoCtc`
may be any object with these members.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig


class Featurizer(Protocol):
    """``preprocessor.featurizer``: the log-mel front end and its settings."""

    sample_rate: int
    hop_length: int
    n_fft: int
    nfilt: int
    pad_to: int
    exact_pad: bool
    mag_power: float
    log: bool
    log_zero_guard_type: str
    frame_splicing: int
    normalize: str
    preemph: float | None
    window: "torch.Tensor"
    fb: "torch.Tensor"

    def log_zero_guard_value_fn(self, x: "torch.Tensor") -> float: ...


class Preprocessor(Protocol):
    """Audio [B, samples] and lengths [B] to log-mel [B, mels, T] and frames [B]."""

    featurizer: Featurizer
    _sample_rate: int

    def __call__(
        self, *, input_signal: "torch.Tensor", length: "torch.Tensor"
    ) -> tuple["torch.Tensor", "torch.Tensor"]: ...


class Encoder(Protocol):
    """Log-mel [B, mels, T] and frames [B] to encoded [B, D, T'] and their frames [B]."""

    d_model: int
    subsampling_factor: int
    pos_emb_max_len: int
    layers: Any
    training: bool

    def __call__(
        self, *, audio_signal: "torch.Tensor", length: "torch.Tensor"
    ) -> tuple["torch.Tensor", "torch.Tensor"]: ...

    def set_default_att_context_size(self, att_context_size: list[int]) -> None: ...


class Decoder(Protocol):
    """Encoded [B, D, T'] to log-probabilities [B, T', V + 1], the blank last."""

    vocabulary: list[str]

    def __call__(self, *, encoder_output: "torch.Tensor") -> "torch.Tensor": ...


class Tokenizer(Protocol):
    """NeMo's wrapper; ``tokenizer`` is the SentencePieceProcessor itself."""

    tokenizer: Any
    vocab_size: int

    def ids_to_text(self, ids: list[int]) -> str: ...

    def text_to_ids(self, text: str) -> list[int]: ...


class NemoCtc(Protocol):
    """A model of EncDecCTCModelBPE, which is a LightningModule as well."""

    cfg: "DictConfig"
    preprocessor: Preprocessor
    encoder: Encoder
    decoder: Decoder
    tokenizer: Tokenizer
    decoding: Any
    loss: Callable[..., "torch.Tensor"]
    training: bool
    _train_dl: Any

    @property
    def device(self) -> "torch.device": ...

    def __call__(
        self, *, input_signal: "torch.Tensor", input_signal_length: "torch.Tensor"
    ) -> tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]: ...

    def train(self, mode: bool = True) -> Any: ...

    def eval(self) -> Any: ...

    def parameters(self) -> Iterator["torch.nn.Parameter"]: ...

    def buffers(self) -> Iterator["torch.Tensor"]: ...

    def named_parameters(self) -> Iterator[tuple[str, "torch.nn.Parameter"]]: ...

    def named_buffers(self) -> Iterator[tuple[str, "torch.Tensor"]]: ...

    def named_modules(self) -> Iterator[tuple[str, "torch.nn.Module"]]: ...

    def children(self) -> Iterator["torch.nn.Module"]: ...

    def requires_grad_(self, requires_grad: bool = True) -> Any: ...

    def state_dict(self) -> dict[str, "torch.Tensor"]: ...

    def load_state_dict(self, state_dict: Mapping[str, "torch.Tensor"], strict: bool = True) -> Any: ...

    def train_dataloader(self) -> Any: ...

    def save_to(self, save_path: str | Path) -> None: ...

    def load_part_of_state_dict(
        self, state_dict: Mapping[str, "torch.Tensor"], include: list[str], exclude: list[str]
    ) -> None: ...

    def change_decoding_strategy(self, decoding_cfg: "DictConfig", verbose: bool = True) -> None: ...

    def transcribe_generator(self, audio: Any, override_config: Any) -> Iterator[list]: ...

    def add_adapter(self, name: str, cfg: Any) -> None: ...
