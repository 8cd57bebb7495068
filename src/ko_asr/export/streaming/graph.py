"""A cache-aware NeMo FastConformer-CTC as one ONNX graph of a chunk, and the contract that describes it.

As offline, lengths stay integers and the best tokens are in the graph; here the caches go in and come out.
"""

import secrets
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ko_asr.export.streaming.encoder import (
    MASKED,
    Layer,
    Subsampling,
    check_streaming,
    encoded_frames,
    left_context,
    linear,
    positions_of,
    projection,
)
from ko_asr.export.to_onnx import to_onnx
from ko_asr.provenance import sha256
from ko_asr.runtime import tensors
from ko_asr.runtime.stream_contract import StreamingContract

TOP_K = 8


class StreamingCTC(nn.Module):
    """One chunk of ``right + 1`` encoder frames: features and caches in, best tokens and caches out.

    ``model`` is a stock EncDecCTCModelBPE; ``right`` one of its look-aheads in encoder frames. With ``half``
    weights, activations and the two caches of frames are float16; the softmax, what goes in and what is read
    stay float32, and lengths are integers. UserError when the model cannot stream exactly or was not trained
    with that look-ahead.
    """

    @torch.no_grad()
    def __init__(self, model: Any, right: int, top_k: int, half: bool = False) -> None:
        super().__init__()
        check_streaming(model)
        self.left, self.chunk = left_context(model.encoder, right), right + 1
        self.top_k = min(top_k, int(model.decoder.num_classes_with_blank))
        self.factor = int(model.encoder.subsampling_factor)
        self.subsampling = Subsampling(model.encoder.pre_encode, model.encoder.xscale or 1.0)
        positions = positions_of(model.encoder.pos_enc, self.left, self.chunk)
        self.layers = nn.ModuleList(Layer(layer, positions, self.chunk) for layer in model.encoder.layers)
        head = model.decoder.decoder_layers[0]
        self.head = linear(head.weight[:, :, 0] @ projection(model.encoder), head.bias)
        self.dtype = torch.float16 if half else torch.float32
        self.to(self.dtype)

    def forward(
        self,
        features: torch.Tensor,
        length: torch.Tensor,
        cache_last_channel: torch.Tensor,
        cache_last_time: torch.Tensor,
        cache_last_channel_len: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Compute a chunk.

        ``features`` float32 [B, mels, window] begin ``2 (factor - 1)`` frames before the chunk, zeros where
        there is no audio; ``length`` int64 [B, 1] is how many frames of the window lie before the audio's
        end. ``cache_last_channel`` [B, layers, left, d_model], ``cache_last_time``
        [B, layers, d_model, kernel - 1] and ``cache_last_channel_len`` int64 [B, 1] are zeros at first; the
        first two are float32, or float16 where the graph is.

        Returns token_ids int32 [B, chunk, K] and token_log_probs [B, chunk, K], best first, encoded_length
        int64 [B, 1], the three caches, log_probs [B, chunk, V + 1].
        """
        x = self.subsampling(features.to(self.dtype), length, cache_last_channel_len)
        valid = encoded_frames(length, self.factor, self.chunk)
        mask = self._mask(cache_last_channel_len, valid)
        seen, past = [], []
        for index, layer in enumerate(self.layers):
            x, frames, samples = layer(x, mask, cache_last_channel[:, index], cache_last_time[:, index])
            seen.append(frames)
            past.append(samples)
        log_probs = functional.log_softmax(self.head(x).float(), dim=-1).unflatten(0, (-1, self.chunk))
        best, ids = log_probs.topk(self.top_k, dim=-1)
        return (
            ids.to(torch.int32),
            best,
            valid,
            torch.stack(seen, dim=1),
            torch.stack(past, dim=1),
            torch.clamp(cache_last_channel_len + self.chunk, max=self.left),
            log_probs,
        )

    def _mask(self, cached: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """The mask added to the scores of every key, [B, 1, left + chunk]."""
        frame = torch.arange(self.left + self.chunk)[None, :]
        hidden = (frame < self.left - cached) | (frame >= self.left + valid)
        return (hidden.to(self.dtype) * MASKED)[:, None, :]


def streaming_graph(
    model: Any, path: Path | None, look_ahead: int | None, top_k: int = TOP_K
) -> tuple[StreamingCTC, StreamingContract]:
    """The torch module of a chunk of ``model``, restored from ``path``, and the contract that describes it.

    Without ``look_ahead`` the model's first one. UserError as `StreamingCTC`.
    """
    right = first_look_ahead(model) if look_ahead is None else look_ahead
    graph = StreamingCTC(model, right, top_k).eval()
    return graph, _contract(model, path, graph)


def first_look_ahead(model: Any) -> int:
    """The look-ahead in encoder frames that a cache-aware model names first."""
    return int(model.encoder.att_context_size_all[0][1])


def _contract(model: Any, path: Path | None, graph: StreamingCTC) -> StreamingContract:
    """The contract of ``graph``; what its file and its gate say comes later."""
    from ko_asr.models.vocabulary import find_vocabulary

    encoder, featurizer = model.encoder, model.preprocessor.featurizer
    vocabulary = find_vocabulary(model.tokenizer.tokenizer)
    return StreamingContract(
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
        look_ahead=graph.chunk - 1,
        look_aheads=[int(context[1]) for context in encoder.att_context_size_all],
        top_k=graph.top_k,
        layers=len(encoder.layers),
        d_model=int(encoder.d_model),
        kernel=int(encoder.conv_context_size[0]) + 1,
        versions={name: version(name) for name in ("nemo-toolkit", "torch", "onnx")},
    )


def export_graph(graph: StreamingCTC, contract: StreamingContract, path: Path) -> None:
    """Write the ONNX graph of a chunk to ``path``; only the batch is a dynamic axis, named ``batch``."""
    states = [
        torch.zeros([2, *state["shape"]], dtype=getattr(torch, state["dtype"])) for state in contract.states
    ]
    window = contract.window_frames
    example = (torch.zeros(2, contract.mels, window), torch.tensor([[window], [window - 1]]), *states)
    to_onnx(graph, example, path, tensors.STREAM_INPUTS, (*tensors.STREAM_OUTPUTS, tensors.LOG_PROBS))
