"""The contract of a streaming graph: its tensors, its states and the frame arithmetic of a chunk.

Written by export, read by the engine, the server and clients; `ko_asr.runtime.contract` is the offline one. A
chunk is ``chunk`` encoder frames. Its window of log-mel frames overlaps the one before, because subsampling
looks back; nothing else does, the rest of the past is in the states.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from ko_asr.errors import UserError
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.frames import encoder_frames
from ko_asr.runtime.model_contract import ModelContract

_DERIVED = (
    "chunk",
    "context_frames",
    "shift_frames",
    "window_frames",
    "frame_seconds",
    "first_samples",
    "shift_samples",
    "end_samples",
    "states",
)


@dataclass(frozen=True, kw_only=True)
class StreamingContract(ModelContract):
    """The contract of one streaming graph, for one look-ahead: what it takes, gives and keeps."""

    FILE: ClassVar[str] = file_names.STREAM_CONTRACT
    MISSING: ClassVar[str] = "export a streaming model into that folder"

    window_samples: int  # of the short-time Fourier transform
    left: int  # encoder frames before the chunk that attention sees
    look_ahead: int  # encoder frames of the chunk after its first
    look_aheads: list[int]  # all that the model was trained with
    top_k: int  # best tokens given a frame
    layers: int
    d_model: int
    kernel: int  # of the depthwise convolution
    max_batch_size: int = 32  # streams that the server may put in one batch; bounds a TensorRT plan

    @property
    def chunk(self) -> int:
        """Encoder frames of a chunk."""
        return self.look_ahead + 1

    @property
    def context_frames(self) -> int:
        """Log-mel frames of the window that lie before the chunk: zeros at the start of the audio."""
        return 2 * (self.subsampling - 1)

    @property
    def shift_frames(self) -> int:
        """Log-mel frames from one window to the next."""
        return self.subsampling * self.chunk

    @property
    def window_frames(self) -> int:
        """Log-mel frames of a window."""
        return self.context_frames + self.subsampling * self.look_ahead + 1

    @property
    def window_audio(self) -> int:
        """Samples under a window's frames, and the one before them that the pre-emphasis needs."""
        return (self.window_frames - 1) * self.hop + self.window_samples + 1

    def check_chunk(self, fresh: int, end: bool) -> None:
        """Raise UserError unless a request brings the audio of one chunk, or at the end of one chunk at most.

        ``fresh`` counts the samples after the chunk's beginning (``shift_samples`` times its index).
        """
        if end and fresh > self.end_samples:
            raise UserError(
                f"the last request brings {fresh} samples of its chunk, at most {self.end_samples} fit: "
                "send an ordinary request before it"
            )
        if not end and not self.first_samples <= fresh <= self.first_samples + self.shift_samples:
            raise UserError(
                f"a request must bring the audio of one chunk, {self.shift_samples} samples "
                f"(the first at least {self.first_samples}); this one brings its chunk to {fresh}"
            )

    @property
    def chunk_seconds(self) -> float:
        """Seconds from one chunk to the next."""
        return self.frame_seconds * self.chunk

    @property
    def shift_samples(self) -> int:
        """Samples from one chunk to the next."""
        return self.shift_frames * self.hop

    @property
    def first_samples(self) -> int:
        """Samples that must have arrived before the first chunk can be computed."""
        return self.subsampling * self.look_ahead * self.hop + self.window_samples // 2

    @property
    def end_samples(self) -> int:
        """The most audio after a chunk's beginning that ends within this chunk, in samples."""
        frames = self.shift_frames
        while encoder_frames(frames, self.subsampling, causal=True) > self.chunk:
            frames -= 1
        return (frames + 1) * self.hop - 1

    def chunk_samples(self, index: int) -> int:
        """Samples that must have arrived before chunk ``index`` (from 0) can be computed."""
        return self.shift_samples * index + self.first_samples

    def frames_of_samples(self, samples: int) -> int:
        """Encoder frames that ``samples`` of audio give in all; none below one log-mel frame."""
        frames = samples // self.hop
        return encoder_frames(frames, self.subsampling, causal=True) if frames else 0

    @property
    def states(self) -> list[dict[str, Any]]:
        """The states, zeros at first: input and output name, NumPy type, shape of a row.

        In fp16 the two caches of frames are float16: half the memory of a stream, and half its traffic.
        """
        cache = "float16" if self.precision == "fp16" else "float32"
        shapes = ([self.layers, self.left, self.d_model], [self.layers, self.d_model, self.kernel - 1], [1])
        return [
            {"input": source, "output": target, "dtype": dtype, "shape": shape}
            for source, target, dtype, shape in zip(
                tensors.STATE_INPUTS, tensors.STATE_OUTPUTS, (cache, cache, "int64"), shapes, strict=True
            )
        ]

    def derived(self) -> dict[str, Any]:
        """The arithmetic of chunks and windows, and the states."""
        return {name: getattr(self, name) for name in _DERIVED}
