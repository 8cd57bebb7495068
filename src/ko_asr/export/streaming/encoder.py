"""A cache-aware FastConformer encoder, rewritten for a graph of one chunk: the first, a middle, the last one.

What a chunk computes equals the full forward pass of the same model (NeMo 3.0 ``ConformerEncoder`` with
``chunked_limited`` attention), with less work than NeMo's own streaming step:

- Keys and values of the cached frames are never computed. With x the frames that the layer attends to,
  q·k = (Wk^T q)·x, and the values' projection commutes with the weighted sum; the products Wk^T Wq and Wo Wv
  are constants. A constant added to every key's score (the key bias) leaves the softmax as it is.
- The position term of Transformer-XL attention depends on the distance only: its projections are constants.
- Convolutions take the frames they need and no padding along time, so nothing is computed and dropped.
- Frames before the first sample and after the last one must be zero between the subsampling stages, not only
  at their input. A second input channel carries how invalid a frame is, and a large negative weight on it
  makes ReLU write that zero: nothing then interrupts ONNX Runtime's blocked layout, as a mask would.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ko_asr.errors import UserError

MASKED = -1e4  # added to scores of frames that may not be seen; NeMo's INF_VAL
# How invalid a frame can be: its distance beyond the last one, up to this; the first stage takes two away.
_INVALID = 4.0
# Far below what the subsampling computes; `_INVALID` in three taps gives -48,000, which half precision holds.
_SILENCE = -4e3


def check_streaming(model: Any) -> None:
    """UserError unless ``model`` is a cache-aware model that this graph reproduces exactly."""
    encoder, name = model.encoder, type(model).__name__
    settings = {
        "att_context_style": (encoder.att_context_style, "chunked_limited"),
        "self_attention_model": (encoder.self_attention_model, "rel_pos"),
        "conv_context_size": (list(encoder.conv_context_size)[1], 0),
        "causal_downsampling": (bool(getattr(encoder.pre_encode, "is_causal", False)), True),
        "subsampling": (getattr(encoder.pre_encode, "_subsampling", None), "dw_striding"),
        "normalize": (model.preprocessor.featurizer.normalize, "NA"),
        "reduction_position": (encoder.reduction_position, None),
    }
    for key, (value, wanted) in settings.items():
        if value != wanted:
            raise UserError(
                f"this {name} does not stream exactly ({key} is {value}, not {wanted}): "
                "train with --config-name fastconformer_ko_streaming"
            )
    if encoder.subsampling_factor not in (4, 8):
        raise UserError(f"streaming supports 4x and 8x subsampling, not {encoder.subsampling_factor}x")


def encoded_frames(length: torch.Tensor, factor: int, chunk: int) -> torch.Tensor:
    """Valid encoder frames [B, 1] of a chunk whose window holds ``length`` valid log-mel frames.

    Each causal stage gives floor(L/2) + 1. The window starts ``2 factor - 2`` frames before the chunk; two
    more make it a whole number of encoder frames, two, and keep the integers positive.
    """
    frames = length + 2
    while factor > 1:
        frames, factor = frames // 2 + 1, factor // 2
    return torch.clamp(frames - 2, min=0, max=chunk)


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """A linear layer with these constants."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight = nn.Parameter(weight.detach().float().contiguous(), requires_grad=False)
    layer.bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)
    return layer


class Subsampling(nn.Module):
    """Causal depthwise-striding subsampling of a window that brings its own left context.

    Stage 1 writes one channel more: how invalid the frames of stage 2 are, where there is a third stage that
    needs to know. 16 more, in fact, 15 of them empty: ONNX Runtime computes channels in blocks of 16.
    """

    def __init__(self, pre_encode: Any, scale: float) -> None:
        super().__init__()
        convolutions = [layer for layer in pre_encode.conv if isinstance(layer, nn.Conv2d)]
        self.factor = int(pre_encode.subsampling_factor)
        flagged = len(convolutions) > 3
        self.first = _flagged_first(convolutions[0], flagged)
        self.stages = nn.ModuleList()
        for index in range(1, len(convolutions), 2):
            last = index + 2 == len(convolutions)
            self.stages.append(_stage(convolutions[index], convolutions[index + 1], flagged and not last))
        self.out = linear(pre_encode.out.weight * scale, pre_encode.out.bias * scale)

    def forward(self, features: torch.Tensor, length: torch.Tensor, cached: torch.Tensor) -> torch.Tensor:
        """``features`` [B, mels, window], ``length`` and ``cached`` [B, 1] -> [B * chunk, d_model].

        Without look-ahead the window of the second chunk of 8x subsampling still begins before the audio:
        how many frames do so follows from how many encoder frames are ``cached``.
        """
        batch, mels, window = features.shape
        frame = torch.arange(window)[None, :]
        history = 2 * (self.factor - 1) - self.factor * cached
        before = (frame < history).to(features.dtype) * _INVALID
        after = torch.clamp(frame - length, min=0, max=int(_INVALID)).to(features.dtype)
        invalid = torch.maximum(before, after)[:, None, :, None].expand(batch, 1, window, mels)
        x = torch.cat([features.transpose(1, 2).unsqueeze(1), invalid], dim=1)
        x = functional.relu(self.first(functional.pad(x, (2, 1))))
        for stage in self.stages:
            x = functional.relu(stage(functional.pad(x, (2, 1))))
        return self.out(x.transpose(1, 2).flatten(2).flatten(0, 1))


def _flagged_first(first: nn.Conv2d, flagged: bool) -> nn.Conv2d:
    """The first convolution with the flag as second input, and as a further output when ``flagged``.

    An output frame reads its own flag at the last tap along time. A frame of stage 2 is invalid when more
    than two log-mel frames lie between it and the end, hence the bias.
    """
    channels = first.out_channels
    extra = 16 if flagged else 0
    weight, bias = torch.zeros(channels + extra, 2, 3, 3), torch.zeros(channels + extra)
    weight[:channels, :1], bias[:channels] = first.weight, _bias(first)
    weight[:channels, 1, 2, :] = _SILENCE
    if flagged:
        weight[channels, 1, 2, 2], bias[channels] = 1.0, -2.0
    return _convolution(weight, bias, stride=2)


def _stage(depthwise: nn.Conv2d, pointwise: nn.Conv2d, flagged: bool) -> nn.Sequential:
    channels, wide = depthwise.out_channels, depthwise.out_channels + (16 if flagged else 0)
    deep, deep_bias = torch.zeros(wide, 1, 3, 3), torch.zeros(wide)
    deep[:channels], deep_bias[:channels] = depthwise.weight, _bias(depthwise)
    point = torch.zeros(pointwise.out_channels, wide, 1, 1)
    point[:, :channels] = pointwise.weight
    if flagged:
        deep[channels, 0, 2, :] = 1.0
        point[:, channels] = _SILENCE
    first = _convolution(deep, deep_bias, stride=2, groups=wide)
    return nn.Sequential(first, _convolution(point, _bias(pointwise)))


def _convolution(weight: torch.Tensor, bias: torch.Tensor, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    kernel = (weight.shape[2], weight.shape[3])
    layer = nn.Conv2d(weight.shape[1] * groups, weight.shape[0], kernel, stride=stride, groups=groups)
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


class Layer(nn.Module):
    """A FastConformer layer on one chunk."""

    def __init__(self, layer: Any, positions: torch.Tensor, chunk: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(
            [layer.norm_feed_forward1, layer.norm_self_att, layer.norm_conv, layer.norm_feed_forward2]
        )
        self.feed_forward1 = FeedForward(layer.feed_forward1)
        self.attention = Attention(layer.self_attn, positions, chunk)
        self.convolution = Convolution(layer.conv, chunk)
        self.feed_forward2 = FeedForward(layer.feed_forward2)
        self.norm_out = layer.norm_out

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, seen: torch.Tensor, past: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``x`` [B * chunk, d_model] and the layer's two caches -> output and next caches."""
        x = x + self.feed_forward1(self.norms[0](x))
        y, seen = self.attention(self.norms[1](x), mask, seen)
        x = x + y
        y, past = self.convolution(self.norms[2](x), past)
        x = x + y
        x = x + self.feed_forward2(self.norms[3](x))
        return self.norm_out(x), seen, past


class FeedForward(nn.Module):
    """Half a step of the feed-forward module (the half is in the weights)."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.wide = linear(module.linear1.weight, _bias(module.linear1))
        self.narrow = linear(0.5 * module.linear2.weight, 0.5 * _bias(module.linear2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B * chunk, d_model] -> the same shape."""
        return self.narrow(functional.silu(self.wide(x)))


class Attention(nn.Module):
    """Relative-position attention over the cached frames and the chunk, without keys and values."""

    def __init__(self, module: Any, positions: torch.Tensor, chunk: int) -> None:
        super().__init__()
        self.chunk, self.heads, self.size = chunk, module.h, module.h * module.d_k
        query, content, place = _scores(module, positions)
        self.distances = place.shape[1]
        weight = torch.cat([content @ query[0], place @ query[0]], dim=1)
        bias = torch.cat(
            [
                torch.einsum("hed,hd->he", content, query[1] + module.pos_bias_u.double()),
                torch.einsum("hrd,hd->hr", place, query[1] + module.pos_bias_v.double()),
            ],
            dim=1,
        )
        # Rows: the content queries of every head, then the position scores of every head.
        order = torch.arange(weight.shape[0] * weight.shape[1]).reshape(weight.shape[0], -1)
        order = torch.cat([order[:, : self.size].flatten(), order[:, self.size :].flatten()])
        self.scores = linear(weight.flatten(0, 1)[order], bias.flatten()[order])
        self.out = linear(*_values(module))

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, seen: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``x`` [B * chunk, d_model], ``mask`` [B, 1, keys], ``seen`` [B, left, d_model]."""
        frames = torch.cat([seen, x.unflatten(0, (-1, self.chunk))], dim=1)
        content, place = self.scores(x).split([self.heads * self.size, self.heads * self.distances], dim=-1)
        queries = content.reshape(-1, self.chunk * self.heads, self.size)
        place = place.reshape(-1, self.chunk, self.heads, self.distances)
        weights = torch.softmax(queries @ frames.transpose(1, 2) + (self._by_key(place) + mask), dim=-1)
        return self.out((weights @ frames).reshape(-1, self.heads * self.size)), frames[:, self.chunk :]

    def _by_key(self, place: torch.Tensor) -> torch.Tensor:
        """Scores [B, chunk, heads, distances] -> [B, chunk * heads, keys]: each frame has its own zero."""
        last, keys = self.chunk - 1, self.distances - self.chunk + 1
        rows = [place[:, i : i + 1, :, last - i : last - i + keys] for i in range(self.chunk)]
        return torch.cat(rows, dim=1).flatten(1, 2)


def _scores(module: Any, positions: torch.Tensor) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """((query weight [H, d_k, D], bias [H, d_k]), scaled Wk^T [H, D, d_k], scaled positions [H, R, d_k])."""
    heads, width = module.h, module.d_k
    query = module.linear_q.weight.double().unflatten(0, (heads, width))
    query_bias = _bias(module.linear_q).double().unflatten(0, (heads, width))
    key = module.linear_k.weight.double().unflatten(0, (heads, width)).transpose(1, 2)
    place = (positions.double() @ module.linear_pos.weight.double().T).unflatten(1, (heads, width))
    scale = width**-0.5
    return (query, query_bias), key * scale, place.transpose(0, 1) * scale


def _values(module: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and output projection in one: weight [D, H * D], bias [D]."""
    heads, width = module.h, module.d_k
    value = module.linear_v.weight.double().unflatten(0, (heads, width))  # [H, d_k, D]
    out = module.linear_out.weight.double().unflatten(1, (heads, width))  # [D, H, d_k]
    weight = torch.einsum("ohd,hde->ohe", out, value).flatten(1)
    bias = module.linear_out.weight.double() @ _bias(module.linear_v).double()
    return weight, bias + _bias(module.linear_out).double()


def positions_of(encoding: Any, left: int, chunk: int) -> torch.Tensor:
    """Sinusoids [left + 2 chunk - 1, d_model] of the distances left + chunk - 1 down to -(chunk - 1)."""
    zero = encoding.pe.shape[1] // 2
    return encoding.pe[0, zero - (left + chunk - 1) : zero + chunk]


class Convolution(nn.Module):
    """The convolution module; its cache holds the last ``kernel - 1`` inputs of the depthwise convolution."""

    def __init__(self, module: Any, chunk: int) -> None:
        super().__init__()
        self.chunk = chunk
        self.gate = linear(module.pointwise_conv1.weight[:, :, 0], _bias(module.pointwise_conv1))
        weight, bias, self.norm = _normalised(module)
        # Two dimensions, because ONNX Runtime has a fast depthwise convolution for these only.
        self.depthwise = nn.Parameter(weight.detach().unsqueeze(2), requires_grad=False)
        self.bias = nn.Parameter(bias.detach(), requires_grad=False)
        self.out = linear(module.pointwise_conv2.weight[:, :, 0], _bias(module.pointwise_conv2))

    def forward(self, x: torch.Tensor, past: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``x`` [B * chunk, d_model], ``past`` [B, d_model, kernel - 1]."""
        x = functional.glu(self.gate(x), dim=-1).unflatten(0, (-1, self.chunk))
        x = torch.cat([past, x.transpose(1, 2)], dim=2)
        y = functional.conv2d(x.unsqueeze(2), self.depthwise, self.bias, groups=x.shape[1]).squeeze(2)
        y = y.transpose(1, 2).flatten(0, 1)
        return self.out(functional.silu(self.norm(y))), x[:, :, self.chunk :]


def _normalised(module: Any) -> tuple[torch.Tensor, torch.Tensor, nn.Module]:
    """Depthwise weight and bias, and the norm after it; a batch norm goes into the weights."""
    weight, bias = module.depthwise_conv.weight, _bias(module.depthwise_conv)
    if isinstance(module.batch_norm, nn.LayerNorm):
        return weight, bias, module.batch_norm
    if not isinstance(module.batch_norm, nn.BatchNorm1d):
        raise UserError(f"streaming supports layer_norm and batch_norm, not {module.norm_type}")
    norm: Any = module.batch_norm
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    return weight * scale[:, None, None], bias * scale + shift, nn.Identity()


def _bias(layer: Any) -> torch.Tensor:
    return torch.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias.detach()


def projection(encoder: Any) -> torch.Tensor:
    """The matrix [d_model, d_model] between the last layer and the head. UserError if it is not identity."""
    if encoder.out_proj is not None:
        raise UserError("an encoder with an output projection (feat_out) is not supported for streaming")
    return torch.eye(int(encoder.d_model))


def left_context(encoder: Any, right: int) -> int:
    """The left context that goes with a look-ahead of ``right`` encoder frames."""
    contexts = {int(context[1]): int(context[0]) for context in encoder.att_context_size_all}
    if right not in contexts:
        listed = ", ".join(str(value) for value in sorted(contexts))
        raise UserError(f"the model has no look-ahead of {right} encoder frames: one of {listed}")
    left, chunk = contexts[right], right + 1
    if left < 0:
        raise UserError("a model with unlimited left context cannot stream in bounded memory")
    return left // chunk * chunk  # chunked_limited sees whole chunks only
