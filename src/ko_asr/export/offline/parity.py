"""The gate of the offline graphs: front end and encoder against NeMo, on noise of many lengths."""

from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.errors import UserError
from ko_asr.export.figures import Figure
from ko_asr.export.parity import LIMIT, furthest, noise
from ko_asr.export.session import open_session
from ko_asr.runtime import tensors
from ko_asr.runtime.log_mel import LogMel

# Valid frames of each row of a batch: shortest, odd, mixed and padded, and odd above 2048 (where half
# precision can no longer count).
BATCHES: tuple[tuple[int, ...], ...] = ((2,), (237,), (500, 333, 64, 9), (2051, 777))
_SAMPLES = (400, 5_003, 16_000, 80_000)
# Of each row of a batch for the log-mel graph; padded beyond the longest.
_SAMPLE_BATCHES: tuple[tuple[int, ...], ...] = ((400,), (5_003, 80_000, 479), (328_319, 1_601))
_OUTPUTS = [tensors.LOG_PROBS, tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH]


def refuse_differences(figures: list[Figure]) -> None:
    """UserError naming the figures that are above their limit."""
    if failed := [figure.name for figure in figures if not figure.passed]:
        raise UserError(f"the export differs from NeMo in: {'; '.join(failed)}; nothing was written")


def check_log_mel(model: Any, log_mel: LogMel) -> list[Figure]:
    """Compare our numpy log-mel with NeMo's preprocessor, on noise of several lengths with silence in it."""
    generator = np.random.default_rng(0)
    figures = []
    for samples in _SAMPLES:
        audio = noise(generator, samples)
        difference = furthest(log_mel(audio), _nemo_features(model, audio))
        figures.append(Figure(f"log-mel, {samples} samples", difference, LIMIT))
    return figures


def _nemo_features(model: Any, audio: np.ndarray) -> np.ndarray:
    """Valid features [mels, frames] of NeMo's preprocessor."""
    import torch

    with torch.inference_mode():
        features, count = model.preprocessor(
            input_signal=torch.from_numpy(audio)[None], length=torch.tensor([len(audio)])
        )
    return features[0, :, : int(count[0])].numpy()


def check_log_mel_graph(model: Any, hop: int, path: Path) -> list[Figure]:
    """Compare the log-mel graph with NeMo's preprocessor, each row of padded batches with its clip alone.

    Padding is filled with noise, so that a mask that leaks is seen; frames after a row's must be zero.
    """
    session, generator = open_session(path), np.random.default_rng(0)
    figures = []
    for batch in _SAMPLE_BATCHES:
        frames = max(batch) // hop + 3
        padded = generator.standard_normal((len(batch), (frames + 1) * hop)).astype(np.float32)
        clips = [noise(generator, samples) for samples in batch]
        for row, clip in zip(padded, clips, strict=True):
            row[: len(clip)] = clip
        feed = {tensors.PADDED_AUDIO: padded, tensors.SAMPLES: np.array(batch, np.int64)[:, None]}
        features, counts = session.run([tensors.FEATURES, tensors.LENGTH], feed)
        rows = zip(features, counts[:, 0], clips, strict=True)
        found = [_row_difference(row, count, _nemo_features(model, clip)) for row, count, clip in rows]
        name = f"log-mel graph, samples {'+'.join(map(str, batch))}"
        figures.append(Figure(name, float(np.max(found)), LIMIT))
    return figures


def _row_difference(row: np.ndarray, count: int, theirs: np.ndarray) -> float:
    """The difference of a padded ``row`` [mels, frames]; infinite unless all after its ``count`` is zero."""
    if count != theirs.shape[1] or row[:, count:].any():
        return float("inf")
    return furthest(row[:, :count], theirs)


def check_graph(model: Any, onnx_path: Path, mels: int, max_frames: int) -> list[Figure]:
    """Compare ONNX Runtime with NeMo frame by frame, padded batches of mixed lengths included.

    Padding is filled with noise, so that a mask that leaks is seen.
    """
    session, generator = open_session(onnx_path), np.random.default_rng(0)
    figures = []
    for batch in BATCHES:
        lengths = [min(length, max_frames) for length in batch]
        features = generator.standard_normal((len(lengths), mels, max(lengths))).astype(np.float32)
        worst = _batch_difference(model, session, features, lengths)
        figures.append(Figure(f"log-probs, frames {'+'.join(map(str, lengths))}", worst, LIMIT))
    return figures


def _batch_difference(model: Any, session: Any, features: np.ndarray, lengths: list[int]) -> float:
    """The largest difference of one padded batch; infinite where the frames of a row are not as many."""
    from ko_asr.models.reference import reference_log_probs

    feed = {tensors.FEATURES: features, tensors.LENGTH: np.array(lengths, np.int64)[:, None]}
    log_probs, ids, best, counts = session.run(_OUTPUTS, feed)
    found: list[float] = []
    for row, length in enumerate(lengths):
        # NeMo alone, without padding: its own padded batches differ from this in the last bits only.
        wanted = reference_log_probs(model, features[row : row + 1, :, :length], [length])[0]
        if counts[row, 0] != len(wanted):
            return float("inf")
        got = log_probs[row, : len(wanted)]
        chosen = np.take_along_axis(got, ids[row, : len(wanted)].astype(np.int64), axis=1)
        highest = np.sort(got, axis=1)[:, ::-1][:, : chosen.shape[1]]
        found += [np.abs(got - wanted).max(), np.abs(highest - chosen).max()]
        found.append(np.abs(best[row, : len(wanted)] - chosen).max())
    return float(np.max(found))  # a NaN anywhere stays one, and does not pass
