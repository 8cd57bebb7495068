"""A NeMo FastConformer-CTC as one ONNX graph with integer length arithmetic and encoded lengths.

NeMo computes lengths in floating point (``calc_length``, ``MaskedConvSequential``), which a half-precision
graph rounds wrongly above 2048 frames; here they stay integers. The best tokens are picked in the graph, so
that a server moves two small tensors a frame instead of a row of the vocabulary.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ko_asr.export.offline.encoder import FusedEncoder
from ko_asr.export.to_onnx import to_onnx
from ko_asr.runtime import tensors

TOP_K = 8  # tokens of a frame, as many as a beam search reads
OUTPUTS = (tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH, tensors.LOG_PROBS)


class OfflineCTC(nn.Module):
    """Features to frame-wise best tokens: encoder, CTC head, top k.

    With ``half`` the weights and activations are float16, except the head's softmax; what goes in and comes
    out keeps its type, so one ensemble serves every precision.
    """

    def __init__(self, model: Any, max_frames: int, half: bool = False) -> None:
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        self.top_k = top_k(model)
        self.encoder = FusedEncoder(model.encoder, max_frames)
        head = model.decoder.decoder_layers[0]
        self.head = nn.Linear(head.in_channels, head.out_channels)
        self.head.weight.data = head.weight.detach()[:, :, 0] / model.decoder.temperature
        self.head.bias.data = head.bias.detach() / model.decoder.temperature
        self.to(self.dtype)

    def forward(self, features: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``features`` [B, mels, T] float32, ``length`` [B, 1] int64 (Triton batches rows) -> `OUTPUTS`.

        token_ids [B, T', K] int32 and token_log_probs [B, T', K], best first, encoded_length [B, 1] int64,
        log_probs [B, T', V+1].
        """
        encoded, encoded_length = self.encoder(features.to(self.dtype), length.reshape(-1))
        log_probs = torch.log_softmax(self.head(encoded).float(), dim=-1)
        log_probs = log_probs.reshape(features.size(0), -1, self.head.out_features)
        best, ids = log_probs.topk(self.top_k, dim=-1)
        return ids.to(torch.int32), best, encoded_length.reshape(-1, 1), log_probs


def top_k(model: Any) -> int:
    """The tokens that the graph of ``model`` gives of each frame."""
    return min(TOP_K, int(model.decoder.num_classes_with_blank))


def export_encoder(model: Any, path: Path, max_frames: int, half: bool = False) -> None:
    """Write the offline graph of ``model`` (stock EncDecCTCModelBPE, eval mode) to ``path``.

    Axes: ``batch``, ``frames`` in, ``encoded_frames`` out. The positional tables are baked in and bound the
    input to ``max_frames`` log-mel frames. UserError on an encoder that `FusedEncoder` does not have.
    """
    wrapper = OfflineCTC(model, max_frames, half)
    example = torch.randn(2, int(model.preprocessor.featurizer.nfilt), 237), torch.tensor([[237], [180]])
    axes = {
        name: {1: "encoded_frames"}
        for name in (tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.LOG_PROBS)
    }
    axes[tensors.FEATURES] = {2: "frames"}
    to_onnx(wrapper, example, path, (tensors.FEATURES, tensors.LENGTH), OUTPUTS, axes)
