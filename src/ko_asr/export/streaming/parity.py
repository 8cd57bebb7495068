"""The gate of the streaming graphs: chunk by chunk against NeMo's full pass, and against the numpy front end.

NeMo is the reference of the encoder. The log-mel graph has the numpy front end for one, which the offline
gate compares with NeMo.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.errors import UserError
from ko_asr.export.figures import Figure
from ko_asr.export.parity import LIMIT, furthest, noise
from ko_asr.export.session import open_session
from ko_asr.export.streaming.backend import Backend, OnnxBackend
from ko_asr.export.streaming.chunks import frames_of_clips, windows
from ko_asr.runtime import tensors
from ko_asr.runtime.log_mel import LogMel
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.windows import SampleWindows, StreamingWindows

# Log-mel frames of the streams compared: one frame, ends at every place of a chunk, odd above 2048.
LENGTHS = (1, 2, 9, 64, 201, 202, 203, 204, 205, 206, 207, 333, 2051)
# Samples of streams: none at all, less than a frame, ends at both sides of a frame's and of a window's.
_STREAMS = (0, 1, 159, 160, 200, 201, 2_600, 10_079, 10_080, 17_917, 48_001)


def check_streams(model: Any, contract: StreamingContract, path: Path) -> dict[str, float]:
    """Largest difference of log-probabilities between streams through ONNX Runtime and NeMo's full forward.

    All streams run in one batch, at different places of their audio. UserError above `LIMIT`.
    """
    from ko_asr.models.reference import reference_log_probs

    generator = np.random.default_rng(0)
    clips = [generator.normal(-6, 3, (contract.mels, length)).astype(np.float32) for length in LENGTHS]
    got = stream_features(OnnxBackend(path, contract), clips)
    model.encoder.set_default_att_context_size([_left(model, contract.look_ahead), contract.look_ahead])
    figures = {}
    for clip, mine in zip(clips, got, strict=True):
        wanted = reference_log_probs(model, clip[None], [clip.shape[1]])[0]
        figures[f"log-probs, {clip.shape[1]} frames"] = furthest(mine, wanted)
    worst = max(figures, key=lambda name: figures[name])
    if not figures[worst] <= LIMIT:
        raise UserError(
            f"the streaming graph differs from NeMo by {figures[worst]:.1e} ({worst}), above {LIMIT}: "
            "nothing was written"
        )
    return figures


def _left(model: Any, look_ahead: int) -> int:
    return next(int(left) for left, right in model.encoder.att_context_size_all if right == look_ahead)


def stream_features(backend: Backend, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Log-probabilities [frames, V + 1] of log-mel ``clips`` [mels, T], streamed together in chunks."""
    state = backend.zeros(len(clips))
    parts = []
    for window, length in windows(backend.contract, clips):
        log_probs, state = backend.log_probs(window, length, state)
        parts.append(log_probs)
    joined = np.concatenate(parts, axis=1)
    counts = frames_of_clips(backend.contract, clips)
    return [row[:count] for row, count in zip(joined, counts, strict=True)]


def check_streaming_log_mel(log_mel: LogMel, contract: StreamingContract, path: Path) -> list[Figure]:
    """Compare the streaming log-mel graph with the numpy front end, every window of several streams.

    The frames before the audio and after it must be zero in both.
    """
    session, generator = open_session(path), np.random.default_rng(0)
    figures = []
    for samples in _STREAMS:
        clip = noise(generator, samples)
        wanted, lengths = _numpy_windows(log_mel, contract, clip)
        features, length = session.run([tensors.FEATURES, tensors.LENGTH], _graph_windows(contract, clip))
        worst = furthest(features, wanted) if np.array_equal(length[:, 0], lengths) else float("inf")
        outside = wanted == 0  # a feature that is exactly zero by itself is as good as none
        worst = worst if not features[outside].any() else float("inf")
        figures.append(Figure(f"log-mel graph, stream of {samples}", worst, LIMIT))
    return figures


def _window_count(contract: StreamingContract, clip: np.ndarray) -> int:
    return max(1, -(-contract.frames_of_samples(len(clip)) // contract.chunk))


def _numpy_windows(
    log_mel: LogMel, contract: StreamingContract, clip: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    cutter = StreamingWindows(contract, log_mel)
    cutter.feed(clip)
    cutter.end()
    features = np.empty((_window_count(contract, clip), contract.mels, contract.window_frames), np.float32)
    return features, [cutter.take(window) for window in features]


def _graph_windows(contract: StreamingContract, clip: np.ndarray) -> dict[str, np.ndarray]:
    """The feed of all windows of ``clip`` in one batch."""
    cutter = SampleWindows(contract)
    cutter.feed(clip)
    cutter.end()
    audio = np.empty((_window_count(contract, clip), contract.window_audio), np.float32)
    places = np.array([cutter.take(window) for window in audio], np.int64)
    return {
        tensors.PADDED_AUDIO: audio,
        tensors.BEFORE: places[:, :1],
        tensors.SAMPLES: places[:, 1:],
    }
