"""A NeMo FastConformer-CTC as one ONNX graph with integer length arithmetic and encoded lengths.

NeMo computes lengths in floating point (``calc_length``, ``MaskedConvSequential``), which a half-precision
graph rounds wrongly above 2048 frames; here they stay integers. The argmax is in the graph, so that a
server moves two small tensors a frame instead of a row of the vocabulary.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ko_asr import contract as names
from ko_asr.errors import UserError
from ko_asr.logmel import LogMel
from ko_asr.nemo_file import restore_model

OPSET = 18
OUTPUTS = (names.TOKEN_IDS, names.TOKEN_LOG_PROBS, names.ENCODED_LENGTH, names.LOG_PROBS)


def load_model(path: Path) -> Any:
    """Restore a .nemo on the CPU in eval mode. Raises UserError when it is not one we can export."""
    model = restore_model(path)
    if type(model).__name__ != "EncDecCTCModelBPE":
        raise UserError(f"{path} is a {type(model).__name__}; only EncDecCTCModelBPE is exported")
    return model


def log_mel_of(model: Any) -> LogMel:
    """The numpy front end with the model's own window and filters. UserError on settings it does not have."""
    featurizer = model.preprocessor.featurizer
    supported = {
        "exact_pad": (featurizer.exact_pad, False),
        "mag_power": (featurizer.mag_power, 2.0),
        "log": (featurizer.log, True),
        "log_zero_guard_type": (featurizer.log_zero_guard_type, "add"),
        "frame_splicing": (featurizer.frame_splicing, 1),
    }
    for key, (value, wanted) in supported.items():
        if value != wanted:
            raise UserError(f"the model's preprocessor has {key}={value}; export supports {wanted} only")
    if featurizer.normalize not in ("per_feature", "NA"):
        raise UserError(f"the model normalizes features by {featurizer.normalize!r}: per_feature or NA only")
    return LogMel(
        window=featurizer.window.float().numpy(),
        filters=featurizer.fb[0].float().numpy(),
        n_fft=int(featurizer.n_fft),
        hop=int(featurizer.hop_length),
        preemphasis=float(featurizer.preemph or 0.0),
        log_guard=float(featurizer.log_zero_guard_value_fn(featurizer.fb)),
        normalize=str(featurizer.normalize),
    )


class IntegerLengthSubsampling(nn.Module):
    """NeMo's ``ConvSubsampling`` (2-D striding kinds) with integer lengths.

    Padding is zeroed before each convolution that looks along time. Pointwise convolutions between them
    need no mask: what they write into padding is zeroed before anything reads it.
    """

    def __init__(self, subsampling: Any) -> None:
        super().__init__()
        if not getattr(subsampling, "conv2d_subsampling", False) or subsampling._ceil_mode:
            raise UserError("only dw_striding and striding subsampling are exported")
        self.layers = nn.ModuleList(subsampling.conv)
        self.out = subsampling.out

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``x`` [B, T, mels], ``lengths`` [B] int64 -> [B, T', d_model] and [B] int64."""
        x = x.unsqueeze(1)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1:
                x = _zero_padding(x, lengths)
                x = layer(x)
                lengths = _after_stride(lengths, layer)
            else:
                x = layer(x)
        x = _zero_padding(x, lengths)
        batch, _, frames, _ = x.size()
        return self.out(x.transpose(1, 2).reshape(batch, frames, -1)), lengths


def _zero_padding(x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    valid = torch.arange(x.size(2), device=x.device)[None, :] < lengths[:, None]
    return x * valid[:, None, :, None].to(x.dtype)


def _after_stride(lengths: torch.Tensor, layer: Any) -> torch.Tensor:
    if hasattr(layer, "_left_padding"):  # CausalConv2D pads by itself
        padding = layer._left_padding + layer._right_padding
    else:
        padding = 2 * int(layer.padding[0])
    return (lengths + (padding - layer.kernel_size[0])) // layer.stride[0] + 1


class OfflineCTC(nn.Module):
    """Features to frame-wise best tokens: encoder, CTC head, argmax."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(model.encoder)
        self.encoder.pre_encode = IntegerLengthSubsampling(self.encoder.pre_encode)
        self.decoder = copy.deepcopy(model.decoder)

    def forward(self, features: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``features`` [B, mels, T] float32, ``length`` [B, 1] int64 (Triton batches rows) -> `OUTPUTS`.

        token_ids [B, T'] int32, token_log_probs [B, T'], encoded_length [B, 1] int64, log_probs [B, T', V+1].
        """
        encoded, encoded_length = self.encoder.forward_internal(features, length.reshape(-1))
        log_probs = self.decoder(encoder_output=encoded)
        best, ids = log_probs.max(dim=-1)
        return ids.to(torch.int32), best, encoded_length.reshape(-1, 1), log_probs


def export_encoder(model: Any, path: Path) -> None:
    """Write the offline graph of ``model`` (stock EncDecCTCModelBPE, eval mode) to ``path``.

    Axes: ``batch``, ``frames`` in, ``encoded_frames`` out. The positional table (``pos_emb_max_len`` encoder
    frames) is baked in and bounds the length.
    """
    from nemo.core.classes.common import typecheck

    wrapper = OfflineCTC(model).eval()
    mels = int(model.preprocessor.featurizer.nfilt)
    batch, frames = torch.export.Dim("batch"), torch.export.Dim("frames")
    with typecheck.disable_checks(), _quiet():
        torch.onnx.export(
            wrapper,
            (torch.randn(2, mels, 237), torch.tensor([[237], [180]])),
            str(path),
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            input_names=[names.FEATURES, names.LENGTH],
            output_names=list(OUTPUTS),
            dynamic_shapes={"features": {0: batch, 2: frames}, "length": {0: batch}},
            verbose=False,
        )
    _name_axes(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about decompositions and about its own deprecations; none is about this model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _name_axes(path: Path) -> None:
    import onnx

    graph = onnx.load(str(path))
    for output in graph.graph.output:
        shape = output.type.tensor_type.shape.dim
        shape[0].dim_param = "batch"
        if output.name in (names.TOKEN_IDS, names.TOKEN_LOG_PROBS, names.LOG_PROBS):
            shape[1].dim_param = "encoded_frames"
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))


def reference_log_probs(model: Any, features: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    """NeMo's own log-probabilities [T', V+1] of each row of ``features`` [B, mels, T], valid frames only."""
    with torch.inference_mode():
        encoded, encoded_length = model.encoder(
            audio_signal=torch.from_numpy(features), length=torch.tensor(list(lengths))
        )
        log_probs = model.decoder(encoder_output=encoded)
    return [row[:count].numpy() for row, count in zip(log_probs, encoded_length.tolist(), strict=True)]
