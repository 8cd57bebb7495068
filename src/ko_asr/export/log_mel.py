"""The log-mel front end as ONNX graphs, offline and streaming, so that a GPU server computes it on the GPU.

The same numbers as `ko_asr.runtime.log_mel` and `ko_asr.runtime.stream_log_mel`, from standard operators that
ONNX Runtime and TensorRT take: TensorRT's parser has no ``STFT``, so the transform is a matrix product with
the sines and cosines of the bins that a filter reads, the window folded in. A product rather than a
convolution, because ONNX Runtime's CUDA provider searches cuDNN's algorithms anew for every length of audio.

Always float32, whatever the encoder's precision: the power of one bin of loud speech passes half precision's
65504, and its log guard 2^-24 is half precision's smallest number.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from ko_asr.export.to_onnx import to_onnx
from ko_asr.runtime import tensors
from ko_asr.runtime.log_mel import STD_GUARD, LogMel
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.stream_log_mel import check_streamable

_OUTPUTS = (tensors.FEATURES, tensors.LENGTH)


class LogEnergies(nn.Module):
    """Pre-emphasis, framing, power spectrum, mel filters, logarithm."""

    kernel: torch.Tensor
    filters: torch.Tensor

    def __init__(self, log_mel: LogMel) -> None:
        super().__init__()
        self.hop, self.width = log_mel.hop, len(log_mel.window)
        self.blocks = -(-self.width // self.hop)  # hops that a window touches
        self.preemphasis, self.log_guard = log_mel.preemphasis, log_mel.log_guard
        bins = np.flatnonzero(log_mel.filters.any(axis=0))
        angle = 2 * np.pi / log_mel.n_fft * np.outer(np.arange(self.width), bins)
        kernel = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) * log_mel.window[:, None]
        self.register_buffer("kernel", torch.from_numpy(kernel.astype(np.float32)))  # [window, 2 * bins]
        self.register_buffer("filters", torch.from_numpy(log_mel.filters[:, bins].T.copy()))

    def emphasised(self, audio: torch.Tensor) -> torch.Tensor:
        """``audio`` [B, n + 1] -> [B, n]: its first sample is only the one before."""
        return audio[:, 1:] - self.preemphasis * audio[:, :-1]

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Pre-emphasised ``samples`` [B, (frames + blocks - 1) * hop] -> [B, frames, mels].

        Frame k is the window that begins at sample k * hop.
        """
        hops = samples.reshape(samples.size(0), -1, self.hop)
        last = self.blocks - 1
        parts = [hops[:, k : k - last] for k in range(last)]
        parts.append(hops[:, last:, : self.width - last * self.hop])
        spectrum = torch.matmul(torch.cat(parts, dim=2), self.kernel)
        real, imaginary = spectrum.chunk(2, dim=2)
        power = real * real + imaginary * imaginary
        return torch.log(torch.matmul(power, self.filters) + self.log_guard)


class OfflineLogMel(nn.Module):
    """Padded audio to the features of each row alone, zeros after them."""

    def __init__(self, log_mel: LogMel) -> None:
        super().__init__()
        self.log_energies = LogEnergies(log_mel)
        self.hop, self.centre = log_mel.hop, len(log_mel.window) // 2
        self.normalized = log_mel.normalize == "per_feature"

    def forward(self, audio: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``audio`` float32 [B, (frames + 1) * hop], ``samples`` int64 [B, 1] valid ones of each row.

        Returns features float32 [B, mels, frames] and their valid frames int64 [B, 1]. One hop more than the
        frames, because audio of n frames has up to n * hop + hop - 1 samples. What the padding holds is
        never read.
        """
        step = self.log_energies
        position = torch.arange(audio.size(1), device=audio.device)[None, :]
        # The last window ends before the last sample; the first begins before the first one.
        surplus = self.centre - (step.blocks - 2) * self.hop
        clean = step.emphasised(functional.pad(audio, (1, 0)))
        clean = _where(position < samples, clean)
        features = step(functional.pad(clean, (self.centre, -surplus)))
        length = torch.div(samples, self.hop, rounding_mode="trunc")
        frame = torch.arange(features.size(1), device=audio.device)[None, :]
        valid = (frame < length)[:, :, None]
        if self.normalized:
            features = _normalized(features, valid, length[:, :, None])
        return _where(valid, features).transpose(1, 2), length


def _where(keep: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """``values`` where ``keep``, else exactly zero; a product would keep the NaNs of padding."""
    return torch.where(keep, values, torch.zeros((), dtype=values.dtype, device=values.device))


def _normalized(features: torch.Tensor, valid: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit deviation a band over the valid frames, as NeMo's ``normalize_batch``."""
    count = length.to(features.dtype)
    mean = _where(valid, features).sum(dim=1, keepdim=True) / torch.clamp(count, min=1.0)
    features = _where(valid, features - mean)
    variance = (features * features).sum(dim=1, keepdim=True) / torch.clamp(count - 1.0, min=1.0)
    return features / (torch.sqrt(variance) + STD_GUARD)


class StreamingLogMelGraph(nn.Module):
    """The samples of one window of a stream to its features. UserError on normalised features."""

    def __init__(self, log_mel: LogMel, contract: StreamingContract) -> None:
        super().__init__()
        check_streamable(log_mel)
        self.log_energies = LogEnergies(log_mel)
        self.hop, self.lead = log_mel.hop, len(log_mel.window) // 2 + 1
        self.frames, self.size = contract.window_frames, contract.window_audio

    def forward(
        self, audio: torch.Tensor, before: torch.Tensor, samples: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """``audio`` float32 [B, `StreamingContract.window_audio`], ``before`` and ``samples`` int64 [B, 1].

        ``before`` frames at the window's start lie before the audio, where ``audio`` holds zeros; its first
        ``samples`` come before the audio's end. Returns features float32 [B, mels, window frames], exactly
        zero before the audio and after it, and int64 [B, 1]: frames of the window before the audio's end.
        """
        step = self.log_energies
        position = torch.arange(1, self.size, device=audio.device)[None, :]
        clean = step.emphasised(audio)
        clean = _where(position < samples, clean)
        whole = (self.frames + step.blocks - 1) * self.hop
        features = step(functional.pad(clean, (0, whole - (self.size - 1))))
        # As many as whole hops after the centre of the window's first frame; never negative.
        length = torch.div(torch.clamp(samples - self.lead, min=0), self.hop, rounding_mode="trunc")
        frame = torch.arange(self.frames, device=audio.device)[None, :]
        inside = ((frame >= before) & (frame < length))[:, :, None]
        return _where(inside, features).transpose(1, 2), length


def export_offline_log_mel(log_mel: LogMel, path: Path) -> None:
    """Write the offline graph. Axes: ``batch``, ``padded_samples`` in, ``frames`` out."""
    example = torch.zeros(2, 100 * log_mel.hop), torch.tensor([[16_000], [9_000]])
    axes = {
        tensors.PADDED_AUDIO: {1: "padded_samples"},
        tensors.FEATURES: {2: "frames"},
    }
    inputs = (tensors.PADDED_AUDIO, tensors.SAMPLES)
    to_onnx(OfflineLogMel(log_mel), example, path, inputs, _OUTPUTS, axes)


def export_streaming_log_mel(log_mel: LogMel, contract: StreamingContract, path: Path) -> None:
    """Write the streaming graph of ``contract``'s windows; only the batch is a dynamic axis."""
    size = contract.window_audio
    example = torch.zeros(2, size), torch.tensor([[14], [0]]), torch.tensor([[size], [size - 1]])
    inputs = (tensors.PADDED_AUDIO, tensors.BEFORE, tensors.SAMPLES)
    to_onnx(StreamingLogMelGraph(log_mel, contract), example, path, inputs, _OUTPUTS)
