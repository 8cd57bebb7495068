"""The contract of a streaming graph: its tensors, its states and the frame arithmetic of a chunk.

Written by export, read by the engine, the server and clients; `ko_asr.runtime.contract` is the offline one. A
chunk is ``chunk`` encoder frames. Its window of log-mel frames overlaps the one before, because subsampling
looks back; nothing else does, the rest of the past is in the states.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.frames import encoder_frames

FORMAT = 1

FULL = "streams of this server are taken"  # in the refusal of a server without a free place


@dataclass(frozen=True)
class StreamingContract:
    """What one streaming graph takes, gives and keeps, for one look-ahead."""

    export_id: str
    model: str  # name of the .nemo
    model_sha256: str
    onnx_sha256: str
    vocabulary: dict[str, Any]  # `ko_asr.runtime.ctc.Vocabulary.to_json`
    blank_id: int
    mels: int
    sample_rate: int  # Hz
    hop: int  # samples a log-mel frame
    window_samples: int  # of the short-time Fourier transform
    subsampling: int  # log-mel frames an encoder frame
    left: int  # encoder frames before the chunk that attention sees
    look_ahead: int  # encoder frames of the chunk after its first
    look_aheads: list[int]  # all that the model was trained with
    top_k: int  # best tokens given a frame
    layers: int
    d_model: int
    kernel: int  # of the depthwise convolution
    target: str = "onnx"  # what runs the graph: onnx, or tensorrt
    precision: str = "fp32"
    max_batch_size: int = 32  # streams that the server may put in one batch; bounds a TensorRT plan
    front_end: str = "numpy"  # what computes the log-mel features: "numpy" (the preprocessor) or "graph"
    versions: dict[str, str] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)  # figures of the gate that let it through
    format: int = FORMAT

    @property
    def chunk(self) -> int:
        """Encoder frames a chunk gives."""
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
        """UserError unless a request brings the audio of one chunk, or at the end of one chunk at most.

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
    def frame_seconds(self) -> float:
        """Seconds an encoder frame covers."""
        return self.hop * self.subsampling / self.sample_rate

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

    def encoder_frames(self, samples: int) -> int:
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

    def text_vocabulary(self) -> Vocabulary:
        """The vocabulary as the decoder uses it."""
        return Vocabulary.from_json(self.vocabulary)

    def dump(self) -> str:
        """The contract as JSON text, with what follows from it for readers in other languages."""
        derived = {
            name: getattr(self, name)
            for name in (
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
        }
        return json.dumps(asdict(self) | {"derived": derived}, ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def load(cls, folder: str | Path) -> "StreamingContract":
        """Read the contract of an exported folder. UserError when it is missing or of another format."""
        path = Path(folder) / file_names.STREAM_CONTRACT
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"no {path}: export a streaming model into that folder") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON: export the model again") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UserError(f"{path} has another format than {FORMAT}: export the model again")
        data.pop("derived", None)
        return cls(**data)
