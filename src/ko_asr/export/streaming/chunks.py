"""Whole utterances through anything that computes a chunk: windows in order, states carried along.

For export, gates and plans, where the features are there from the beginning; `ko_asr.recognition.streaming`
is for audio that is still arriving. Needs numpy, and ``onnxruntime`` for `onnx_runner`: it runs where plans
are built.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ko_asr.export.session import open_session
from ko_asr.runtime.stream_contract import StreamingContract
from ko_asr.runtime.tensors import FEATURES, LENGTH, STATE_INPUTS, STATE_OUTPUTS

Tensors = dict[str, np.ndarray]
Runner = Callable[[Tensors], Mapping[str, np.ndarray]]  # a feed -> outputs by name, the states among them


def windows(
    contract: StreamingContract, clips: Sequence[np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The windows of log-mel ``clips`` [mels, T] side by side, until the longest is over.

    Yields features [B, mels, window], zeros where there is no audio, and how many frames of each window lie
    before the audio's end, int64 [B, 1].
    """
    lengths = np.array([clip.shape[1] for clip in clips])
    chunks = -(-max(frames_of_clips(contract, clips)) // contract.chunk)
    width = contract.shift_frames * chunks + contract.window_frames
    audio = np.zeros((len(clips), contract.mels, contract.context_frames + width), np.float32)
    for row, clip in zip(audio, clips, strict=True):
        row[:, contract.context_frames : contract.context_frames + clip.shape[1]] = clip
    for start in range(0, contract.shift_frames * chunks, contract.shift_frames):
        left = np.clip(lengths + contract.context_frames - start, 0, contract.window_frames)
        window = np.ascontiguousarray(audio[:, :, start : start + contract.window_frames])
        yield window, left[:, None].astype(np.int64)


def frames_of_clips(contract: StreamingContract, clips: Sequence[np.ndarray]) -> list[int]:
    """Encoder frames that each of the log-mel ``clips`` gives."""
    return [contract.frames_of_samples(clip.shape[1] * contract.hop) for clip in clips]


def walk(
    run: Runner, contract: StreamingContract, clips: Sequence[np.ndarray]
) -> Iterator[tuple[Tensors, Mapping[str, np.ndarray]]]:
    """Stream ``clips`` [mels, T] in one batch: the feed of each chunk and its outputs.

    One chunk at a time, so memory does not grow with the audio's length.
    """
    state = [np.zeros([len(clips), *entry["shape"]], entry["dtype"]) for entry in contract.states]
    for features, length in windows(contract, clips):
        feed = {FEATURES: features, LENGTH: length, **dict(zip(STATE_INPUTS, state, strict=True))}
        answer = run(feed)
        yield feed, answer
        state = [answer[name] for name in STATE_OUTPUTS]


def onnx_runner(graph: Path | bytes, outputs: Sequence[str], threads: int = 1) -> Runner:
    """Open a streaming graph on ONNX Runtime's CPU provider that gives ``outputs`` and its states."""
    session = open_session(graph, threads)
    wanted = [*outputs, *STATE_OUTPUTS]
    return lambda feed: dict(zip(wanted, session.run(wanted, feed), strict=True))
