"""NeMo's FastConformer encoder, rewritten for inference graphs: the same numbers in half the nodes.

Every rewrite is an identity in exact arithmetic and uses standard ONNX operators only, so ONNX Runtime and
TensorRT both take it:

- activations stay [batch * frames, channels], so a linear layer and its bias are one ``Gemm``;
- query, key and value are one product; the 1/sqrt(d) scale, NeMo's ``pos_bias_u``, the feed-forward factor
  1/2, the input scale and batch normalisation are folded into weights;
- the projection of the positional table is constant, so it is a table, cut to the longest input;
- padding is excluded by one additive mask a graph (keys) and one product a layer (convolution), and inside
  the subsampling by a large negative bias before its ReLU, which keeps ONNX Runtime's blocked layout;
- lengths are integers throughout: half precision counts exactly to 2048 only.

The encoder given is left as it was.

Source of the model: ``nemo/collections/asr/modules/conformer_encoder.py`` and its parts (NeMo 3.0).
"""

import copy
import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ko_asr.errors import UserError

MASKED = -1e4  # NeMo's INF_VAL; fits half precision. Also larger than anything the subsampling's ReLUs see


def check_supported(encoder: Any) -> None:
    """UserError naming the first setting of NeMo's ``encoder`` that the rewrite does not have."""
    first = encoder.layers[0]
    wanted = {
        "self_attention_model": (encoder.self_attention_model, ("rel_pos",)),
        "subsampling": (getattr(encoder.pre_encode, "_subsampling", "none"), ("dw_striding", "striding")),
        "reduction": (encoder.reduction_position, (None,)),
        "conv_norm_type": (first.conv.norm_type, ("batch_norm", "layer_norm")),
        "adapters": (first.is_adapter_available(), (False,)),
    }
    for key, (value, known) in wanted.items():
        if value not in known:
            choices = " or ".join(map(str, known))
            raise UserError(f"the encoder has {key}={value}; only {choices} is exported")


def _linear(weight: torch.Tensor, bias: torch.Tensor | None) -> nn.Linear:
    layer: Any = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight.data = weight.detach().clone()
    layer.bias.data = torch.zeros(weight.shape[0]) if bias is None else bias.detach().clone()
    return layer


def _scaled(linear: Any, factor: float) -> nn.Linear:
    return _linear(linear.weight * factor, None if linear.bias is None else linear.bias * factor)


class Subsampling(nn.Module):
    """NeMo's ``ConvSubsampling`` with integer lengths.

    A strided convolution must see zeros where there is padding. What it reads was written by a ReLU, so the
    padding of each stage gets `MASKED` added before that ReLU: by a second input channel of the first
    convolution, and by a one-channel convolution beside each later one.
    """

    def __init__(self, subsampling: Any, scale: float) -> None:
        super().__init__()
        layers = list(subsampling.conv)
        if subsampling._ceil_mode or not isinstance(layers[-1], nn.ReLU):
            raise UserError("the subsampling has another activation than ReLU; it is not exported")
        self.stages: Any = nn.ModuleList()
        stage: list[nn.Module] = []
        for layer in copy.deepcopy(layers):
            if isinstance(layer, nn.ReLU):
                self.stages.append(nn.ModuleList(stage))
                stage = []
            else:
                stage.append(layer)
        self.first = self._with_indicator(layers[0])
        channels = self.first.out_channels
        self.silence = nn.Conv2d(1, channels, 1, bias=False)
        nn.init.constant_(self.silence.weight, MASKED)
        weight = subsampling.out.weight.detach()
        bins = weight.shape[1] // channels
        # NeMo flattens [channels, bins]; channels last is what a blocked convolution hands over cheaply.
        weight = weight.reshape(-1, channels, bins).transpose(1, 2).reshape(len(weight), -1)
        self.out = _scaled(_linear(weight, subsampling.out.bias), scale)

    @staticmethod
    def _with_indicator(conv: Any) -> nn.Conv2d:
        """``conv`` with a second input channel, 1 at padding, whose tap on frame 2t writes `MASKED`."""
        before = _left_padding(conv)
        wide: Any = nn.Conv2d(2, conv.out_channels, conv.kernel_size, conv.stride)
        wide.weight.data.zero_()
        wide.weight.data[:, :1] = conv.weight.detach()
        wide.weight.data[:, 1, before, before] = MASKED
        wide.bias.data = conv.bias.detach().clone()
        return wide

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """``features`` [B, T, mels], ``lengths`` [B] int64 -> [B, T', d_model] and [B] int64."""
        conv = self.stages[0][0]
        frame = torch.arange(features.size(1), device=features.device)[None, :, None]
        ends = lengths[:, None, None]
        clean = features * (frame < ends).to(features.dtype)
        # Frame t of the output is padding when frame 2t of the input lies past the last one that it covers.
        past = (frame >= ends + (_padding(conv) - conv.stride[0])).to(features.dtype).expand_as(clean)
        x = torch.relu(self.first(_padded(torch.stack([clean, past], 1), conv)))
        lengths = _after_stride(lengths, conv)
        for index, stage in enumerate(self.stages[1:], 2):
            for layer in stage:
                x = layer(x)
                if layer.stride[0] > 1:
                    lengths = _after_stride(lengths, layer)
            if index < len(self.stages):
                frame = torch.arange(x.size(2), device=x.device)[None, :]
                past = (frame >= lengths[:, None])[:, None, :, None].to(x.dtype)
                x = x + self.silence(past.expand(-1, -1, -1, x.size(3)))
            x = torch.relu(x)
        batch, frames = x.size(0), x.size(2)
        x = self.out(x.permute(0, 2, 3, 1).reshape(batch * frames, -1))
        return x.reshape(batch, frames, -1), lengths


def _left_padding(conv: Any) -> int:
    return int(conv._left_padding if hasattr(conv, "_left_padding") else conv.padding[0])


def _padding(conv: Any) -> int:
    """Both sides together, along time; NeMo's CausalConv2D pads by itself and unevenly."""
    if hasattr(conv, "_left_padding"):
        return int(conv._left_padding + conv._right_padding)
    return 2 * int(conv.padding[0])


def _padded(x: torch.Tensor, conv: Any) -> torch.Tensor:
    left, right = _left_padding(conv), _padding(conv) - _left_padding(conv)
    return functional.pad(x, (left, right, left, right))


def _after_stride(lengths: torch.Tensor, conv: Any) -> torch.Tensor:
    return (lengths + (_padding(conv) - conv.kernel_size[0])) // conv.stride[0] + 1


class Attention(nn.Module):
    """Self-attention with relative positions (Transformer-XL, section 3.3), on [B * T, d_model]."""

    table: torch.Tensor
    v_minus_u: torch.Tensor

    def __init__(self, attention: Any, positions: torch.Tensor) -> None:
        super().__init__()
        self.heads, self.width = attention.h, attention.d_k
        scale = 1.0 / math.sqrt(self.width)
        parts = [attention.linear_q, attention.linear_k, attention.linear_v]
        weight = torch.cat([part.weight.detach() for part in parts])
        zeros = torch.zeros(attention.linear_q.weight.shape[0])
        bias = torch.cat([zeros if part.bias is None else part.bias.detach() for part in parts])
        rows = slice(0, len(zeros))
        bias[rows] += attention.pos_bias_u.detach().reshape(-1)
        weight[rows] *= scale
        bias[rows] *= scale
        self.qkv = _linear(weight, bias)
        self.out = _scaled(attention.linear_out, 1.0)
        difference = (attention.pos_bias_v - attention.pos_bias_u).detach() * scale
        self.register_buffer("v_minus_u", difference[:, None, :].clone())
        table = attention.linear_pos(positions).detach().reshape(-1, self.heads, self.width)
        self.register_buffer("table", table.transpose(0, 1).contiguous())  # [heads, 2 * longest, width]

    def forward(self, x: torch.Tensor, mask: torch.Tensor, batch: int, frames: int) -> torch.Tensor:
        """``x`` [B * T, d_model]; ``mask`` is added to the scores: [B, 1, 1, T] or [B, 1, T, T]."""
        query, key, value = (
            part.reshape(batch, frames, self.heads, self.width).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=1)
        )
        longest = self.table.size(1) // 2
        table = self.table[:, longest - frames : longest + frames].transpose(1, 2)
        distance = self._shift(torch.matmul(query + self.v_minus_u, table), batch, frames)
        scores = torch.matmul(query, key.transpose(2, 3)) + distance + mask
        context = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.out(context.permute(0, 2, 1, 3).reshape(batch * frames, -1))

    def _shift(self, scores: torch.Tensor, batch: int, frames: int) -> torch.Tensor:
        """Column ``frames - (i - j)`` of row i becomes column j: [B, H, T, 2T] -> [B, H, T, T]."""
        rows = scores.reshape(batch, self.heads, 2 * frames, frames)[:, :, 1:]
        return rows.reshape(batch, self.heads, frames, 2 * frames - 1)[:, :, :, :frames]


class Convolution(nn.Module):
    """The convolution module on [B * T, d_model]: GLU, depthwise convolution, norm, swish."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        weight, bias = conv.pointwise_conv1.weight[:, :, 0], conv.pointwise_conv1.bias
        half = len(weight) // 2
        self.value = _linear(weight[:half], None if bias is None else bias[:half])
        self.gate = _linear(weight[half:], None if bias is None else bias[half:])
        self.out = _linear(conv.pointwise_conv2.weight[:, :, 0], conv.pointwise_conv2.bias)
        self.norm = copy.deepcopy(conv.batch_norm) if conv.norm_type == "layer_norm" else None
        self.left, self.right = conv.depthwise_conv._left_padding, conv.depthwise_conv._right_padding
        self.depthwise = self._folded(conv)

    def _folded(self, conv: Any) -> nn.Conv2d:
        """The depthwise convolution over [B, d_model, T, 1], batch normalisation inside."""
        source = conv.depthwise_conv
        weight, bias = source.weight.detach(), source.bias
        bias = torch.zeros(len(weight)) if bias is None else bias.detach()
        if self.norm is None:
            norm = conv.batch_norm
            factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
            weight = weight * factor[:, None, None]
            bias = ((bias - norm.running_mean) * factor + norm.bias).detach()
        symmetric = self.left if self.left == self.right else 0
        size = (source.kernel_size[0], 1)
        folded: Any = nn.Conv2d(len(weight), len(weight), size, padding=(symmetric, 0), groups=len(weight))
        folded.weight.data, folded.bias.data = weight[:, :, :, None].clone(), bias.clone()
        return folded

    def forward(self, x: torch.Tensor, valid: torch.Tensor, batch: int, frames: int) -> torch.Tensor:
        """``x`` [B * T, d_model]; ``valid`` [B * T, 1] is 0 at padding."""
        x = self.value(x) * torch.sigmoid(self.gate(x)) * valid
        x = x.reshape(batch, frames, 1, -1).permute(0, 3, 1, 2)
        if self.left != self.right:
            x = functional.pad(x, (0, 0, self.left, self.right))
        x = self.depthwise(x).permute(0, 2, 3, 1).reshape(batch * frames, -1)
        if self.norm is not None:
            x = self.norm(x)
        return self.out(functional.silu(x))


class Layer(nn.Module):
    """One Conformer block on [B * T, d_model]."""

    def __init__(self, layer: Any, positions: torch.Tensor) -> None:
        super().__init__()
        parts = ("feed_forward1", "self_att", "conv", "feed_forward2", "out")
        self.norms = nn.ModuleList(copy.deepcopy(getattr(layer, f"norm_{part}")) for part in parts)
        self.into = nn.ModuleList(_scaled(m.linear1, 1.0) for m in (layer.feed_forward1, layer.feed_forward2))
        self.back = nn.ModuleList(
            _scaled(m.linear2, layer.fc_factor) for m in (layer.feed_forward1, layer.feed_forward2)
        )
        self.attention = Attention(layer.self_attn, positions)
        self.convolution = Convolution(layer.conv)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor, valid: torch.Tensor, batch: int, frames: int
    ) -> torch.Tensor:
        """``x`` [B * T, d_model] -> the same shape."""
        x = x + self.back[0](functional.silu(self.into[0](self.norms[0](x))))
        x = x + self.attention(self.norms[1](x), mask, batch, frames)
        x = x + self.convolution(self.norms[2](x), valid, batch, frames)
        x = x + self.back[1](functional.silu(self.into[1](self.norms[3](x))))
        return self.norms[4](x)


class FusedEncoder(nn.Module):
    """The whole encoder of ``encoder`` (NeMo's, eval mode) for inputs of up to ``max_frames`` features."""

    context: torch.Tensor | None

    def __init__(self, encoder: Any, max_frames: int) -> None:
        super().__init__()
        check_supported(encoder)
        self.subsampling = Subsampling(encoder.pre_encode, float(encoder.pos_enc.xscale or 1.0))
        longest = max_frames // int(encoder.subsampling_factor) + 2
        positions = _positions(encoder.pos_enc.pe[0], longest)
        self.layers = nn.ModuleList(Layer(layer, positions) for layer in encoder.layers)
        self.out = copy.deepcopy(encoder.out_proj)
        self.register_buffer("context", _context_mask(encoder, longest))

    def forward(self, features: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``features`` [B, mels, T], ``lengths`` [B] int64 -> [B * T', d_model], [B] int64."""
        x, lengths = self.subsampling(features.transpose(1, 2), lengths)
        batch, frames, channels = x.shape
        frame = torch.arange(frames, device=x.device)[None, :]
        valid = (frame < lengths[:, None]).to(x.dtype)
        mask = ((1.0 - valid) * MASKED)[:, None, None, :]
        if self.context is not None:
            mask = torch.maximum(mask + self.context[:frames, :frames], torch.tensor(MASKED, dtype=x.dtype))
        x, valid = x.reshape(batch * frames, channels), valid.reshape(-1, 1)
        for layer in self.layers:
            x = layer(x, mask, valid, batch, frames)
        return (x if self.out is None else self.out(x)), lengths


def _positions(table: torch.Tensor, longest: int) -> torch.Tensor:
    """Embeddings of the distances ``longest`` down to ``1 - longest``; ``table`` runs from n - 1 to 1 - n."""
    zero = len(table) // 2
    if longest > zero:
        table = functional.pad(table, (0, 0, 1, 0))  # a distance that the shift never reads
        zero, longest = zero + 1, min(longest, zero + 1)
    return table[zero - longest : zero + longest].detach()


def _context_mask(encoder: Any, longest: int) -> torch.Tensor | None:
    """The mask of a limited context, added to the scores: [longest, longest]; None when it hides nothing."""
    if tuple(encoder.att_context_size) == (-1, -1):
        return None
    everything = torch.tensor([longest])
    _, hidden = encoder._create_masks(
        encoder.att_context_size, everything, longest, None, torch.device("cpu")
    )
    return hidden[0].float() * MASKED
