"""A NeMo FastConformer-CTC as one ONNX graph with integer length arithmetic and encoded lengths.

NeMo computes lengths in floating point (``calc_length``, ``MaskedConvSequential``), which a half-precision
graph rounds wrongly above 2048 frames; here they stay integers. The argmax is in the graph, so that a
server moves two small tensors a frame instead of a row of the vocabulary.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ko_asr import contract as names
from ko_asr.errors import UserError
from ko_asr.fused_encoder import FusedEncoder
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
            raise UserError(f"the model's preprocessor has {key}={value}; only {wanted} has a front end here")
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


class OfflineCTC(nn.Module):
    """Features to frame-wise best tokens: encoder, CTC head, argmax.

    With ``half`` the weights and activations are float16, except the head's softmax; what goes in and comes
    out keeps its type, so one ensemble serves every precision.
    """

    def __init__(self, model: Any, max_frames: int, half: bool = False) -> None:
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        self.encoder = FusedEncoder(model.encoder, max_frames)
        head = model.decoder.decoder_layers[0]
        self.head = nn.Linear(head.in_channels, head.out_channels)
        self.head.weight.data = head.weight.detach()[:, :, 0] / model.decoder.temperature
        self.head.bias.data = head.bias.detach() / model.decoder.temperature
        self.to(self.dtype)

    def forward(self, features: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``features`` [B, mels, T] float32, ``length`` [B, 1] int64 (Triton batches rows) -> `OUTPUTS`.

        token_ids [B, T'] int32, token_log_probs [B, T'], encoded_length [B, 1] int64, log_probs [B, T', V+1].
        """
        encoded, encoded_length = self.encoder(features.to(self.dtype), length.reshape(-1))
        log_probs = torch.log_softmax(self.head(encoded).float(), dim=-1)
        log_probs = log_probs.reshape(features.size(0), -1, self.head.out_features)
        best, ids = log_probs.max(dim=-1)
        return ids.to(torch.int32), best, encoded_length.reshape(-1, 1), log_probs


def export_encoder(model: Any, path: Path, max_frames: int, half: bool = False) -> None:
    """Write the offline graph of ``model`` (stock EncDecCTCModelBPE, eval mode) to ``path``.

    Axes: ``batch``, ``frames`` in, ``encoded_frames`` out. The positional tables are baked in and bound the
    input to ``max_frames`` log-mel frames. UserError on an encoder that `FusedEncoder` does not have.

    The module has no data-dependent control flow, so torch's tracing exporter writes the same graph as its
    successor, which needs ten times as long (70 s instead of 7 for 16 layers, torch 2.13): it re-traces every
    operator with symbolic shapes. onnxscript folds the constants afterwards.
    """
    wrapper = OfflineCTC(model, max_frames, half).eval()
    example = torch.randn(2, int(model.preprocessor.featurizer.nfilt), 237), torch.tensor([[237], [180]])
    named = {0: "batch", 1: "encoded_frames"}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the exporter's age and its constant folding, not this model
        torch.onnx.export(
            wrapper,
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[names.FEATURES, names.LENGTH],
            output_names=list(OUTPUTS),
            dynamic_axes={
                names.FEATURES: {0: "batch", 2: "frames"},
                names.LENGTH: {0: "batch"},
                names.ENCODED_LENGTH: {0: "batch"},
                **{name: named for name in (names.TOKEN_IDS, names.TOKEN_LOG_PROBS, names.LOG_PROBS)},
            },
        )
    _simplify(path)


def _simplify(path: Path) -> None:
    """Fold constants and drop what nothing reads; the checker has the last word."""
    import onnx
    from onnxscript import ir, optimizer

    graph = ir.load(path)
    optimizer.optimize(graph)
    ir.save(graph, path)
    onnx.checker.check_model(str(path), full_check=True)


def reference_log_probs(model: Any, features: np.ndarray, lengths: Sequence[int]) -> list[np.ndarray]:
    """NeMo's own log-probabilities [T', V+1] of each row of ``features`` [B, mels, T], valid frames only."""
    with torch.inference_mode():
        encoded, encoded_length = model.encoder(
            audio_signal=torch.from_numpy(features), length=torch.tensor(list(lengths))
        )
        log_probs = model.decoder(encoder_output=encoded)
    return [row[:count].numpy() for row, count in zip(log_probs, encoded_length.tolist(), strict=True)]
