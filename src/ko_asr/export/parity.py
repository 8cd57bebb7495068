"""The gate before a repository is written: what will be served must equal NeMo, measured, not assumed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.runtime import tensors
from ko_asr.runtime.log_mel import LogMel
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import BEFORE
from ko_asr.runtime.windows import SampleWindows, StreamingWindows

LIMIT = 1e-3  # largest absolute difference allowed, in log-probabilities and in normalised features
# Valid frames of each row of a batch: shortest, odd, mixed and padded, and odd above 2048 (where half
# precision can no longer count).
BATCHES: tuple[tuple[int, ...], ...] = ((2,), (237,), (500, 333, 64, 9), (2051, 777))
_SAMPLES = (400, 5_003, 16_000, 80_000)
# Of each row of a batch for the log-mel graph; padded beyond the longest.
_SAMPLE_BATCHES: tuple[tuple[int, ...], ...] = ((400,), (5_003, 80_000, 479), (328_319, 1_601))
# Of streams: none at all, less than a frame, ends at both sides of a frame's and of a window's.
_STREAMS = (0, 1, 159, 160, 200, 201, 2_600, 10_079, 10_080, 17_917, 48_001)


@dataclass(frozen=True)
class Figure:
    """One comparison: what was compared and the largest difference found."""

    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit; NaN is not."""
        return self.value <= self.limit


def check_log_mel(model: Any, log_mel: LogMel) -> list[Figure]:
    """Our numpy log-mel against NeMo's preprocessor, on noise of several lengths and on silence."""
    generator = np.random.default_rng(0)
    figures = []
    for samples in _SAMPLES:
        audio = _noise(generator, samples)
        difference = _furthest(log_mel(audio), _nemo_features(model, audio))
        figures.append(Figure(f"log-mel, {samples} samples", difference, LIMIT))
    return figures


def _noise(generator: np.random.Generator, samples: int) -> np.ndarray:
    """Noise of any level with silence in it, float32 [samples]."""
    level = 10 ** generator.uniform(-3, -0.5)
    audio = (level * generator.standard_normal(samples)).astype(np.float32)
    audio[samples // 3 : samples // 2] = 0.0
    return audio


def _nemo_features(model: Any, audio: np.ndarray) -> np.ndarray:
    """Valid features [mels, frames] of NeMo's preprocessor."""
    import torch

    with torch.inference_mode():
        features, count = model.preprocessor(
            input_signal=torch.from_numpy(audio)[None], length=torch.tensor([len(audio)])
        )
    return features[0, :, : int(count[0])].numpy()


def _furthest(ours: np.ndarray, wanted: np.ndarray) -> float:
    """The largest difference; infinite between different shapes."""
    return float(np.abs(ours - wanted).max(initial=0.0)) if ours.shape == wanted.shape else float("inf")


def check_log_mel_graph(model: Any, hop: int, path: Path) -> list[Figure]:
    """The offline log-mel graph against NeMo's preprocessor, each row of padded batches against it alone.

    Padding is filled with noise, so that a mask that leaks is seen; frames after a row's must be zero.
    """
    session, generator = _session(path), np.random.default_rng(0)
    figures = []
    for batch in _SAMPLE_BATCHES:
        frames = max(batch) // hop + 3
        padded = generator.standard_normal((len(batch), (frames + 1) * hop)).astype(np.float32)
        clips = [_noise(generator, samples) for samples in batch]
        for row, clip in zip(padded, clips, strict=True):
            row[: len(clip)] = clip
        feed = {tensors.PADDED_AUDIO: padded, tensors.SAMPLES: np.array(batch, np.int64)[:, None]}
        features, length = session.run([tensors.FEATURES, tensors.LENGTH], feed)
        worst = 0.0
        for row, count, clip in zip(features, length[:, 0], clips, strict=True):
            wanted = np.zeros((row.shape[0], frames), np.float32)
            theirs = _nemo_features(model, clip)
            wanted[:, : theirs.shape[1]] = theirs
            exact = count == theirs.shape[1] and not row[:, count:].any()
            worst = max(worst, _furthest(row, wanted) if exact else float("inf"))
        figures.append(Figure(f"log-mel graph, samples {'+'.join(map(str, batch))}", worst, LIMIT))
    return figures


def check_streaming_log_mel(log_mel: LogMel, contract: StreamingContract, path: Path) -> list[Figure]:
    """The streaming log-mel graph against the numpy front end, every window of several streams.

    What lies before the audio and after it must be zero in both.
    """
    session, generator = _session(path), np.random.default_rng(0)
    figures = []
    for samples in _STREAMS:
        clip = _noise(generator, samples)
        wanted, lengths = _numpy_windows(log_mel, contract, clip)
        features, length = session.run([tensors.FEATURES, tensors.LENGTH], _graph_windows(contract, clip))
        worst = _furthest(features, wanted) if np.array_equal(length[:, 0], lengths) else float("inf")
        outside = wanted == 0  # a feature that is exactly zero by itself is as good as none
        worst = worst if not features[outside].any() else float("inf")
        figures.append(Figure(f"log-mel graph, stream of {samples}", worst, LIMIT))
    return figures


def _window_count(contract: StreamingContract, clip: np.ndarray) -> int:
    return max(1, -(-contract.frames_of_samples(len(clip)) // contract.chunk))


def _numpy_windows(
    log_mel: LogMel, contract: StreamingContract, clip: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    windows = StreamingWindows(contract, log_mel)
    windows.feed(clip)
    windows.end()
    features = np.empty((_window_count(contract, clip), contract.mels, contract.window_frames), np.float32)
    return features, [windows.take(window) for window in features]


def _graph_windows(contract: StreamingContract, clip: np.ndarray) -> dict[str, np.ndarray]:
    """The feed of all windows of ``clip`` in one batch."""
    windows = SampleWindows(contract)
    windows.feed(clip)
    windows.end()
    audio = np.empty((_window_count(contract, clip), contract.window_audio), np.float32)
    places = np.array([windows.take(window) for window in audio], np.int64)
    return {tensors.PADDED_AUDIO: audio, BEFORE: places[:, :1], tensors.SAMPLES: places[:, 1:]}


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def check_graph(model: Any, onnx_path: Path, mels: int, max_frames: int) -> list[Figure]:
    """ONNX Runtime against NeMo frame by frame, padded batches of mixed lengths included.

    Padding is filled with noise, so that a mask that leaks is seen.
    """
    from ko_asr.models.reference import reference_log_probs

    session, generator = _session(onnx_path), np.random.default_rng(0)
    figures = []
    for batch in BATCHES:
        lengths = [min(length, max_frames) for length in batch]
        features = generator.standard_normal((len(lengths), mels, max(lengths))).astype(np.float32)
        outputs = (tensors.LOG_PROBS, tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH)
        feed = {tensors.FEATURES: features, tensors.LENGTH: np.array(lengths, np.int64)[:, None]}
        log_probs, ids, best, counts = session.run(list(outputs), feed)
        worst = 0.0
        for row, length in enumerate(lengths):
            # NeMo alone, without padding: its own padded batches differ from this in the last bits only.
            wanted = reference_log_probs(model, features[row : row + 1, :, :length], [length])[0]
            if counts[row, 0] != len(wanted):
                worst = float("inf")
                break
            got = log_probs[row, : len(wanted)]
            chosen = np.take_along_axis(got, ids[row, : len(wanted), None].astype(np.int64), axis=1)[:, 0]
            worst = max(worst, float(np.abs(got - wanted).max()), float((got.max(axis=1) - chosen).max()))
            worst = max(worst, float(np.abs(best[row, : len(wanted)] - chosen).max()))
        figures.append(Figure(f"log-probs, frames {'+'.join(map(str, lengths))}", worst, LIMIT))
    return figures
