"""The contract: one JSON file, written by export, that every other part of serving reads.

It names the tensors, the vocabulary, the frame arithmetic and the limits of one exported model, so that no
config, client or test repeats them. Each model folder of the repository holds a copy.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.ctc import Vocabulary

FORMAT = 1


# The largest sample taken. Audio lies in -1..1; with any window and filters in use, the float32 power of
# samples up to here is finite.
LOUDEST = 1e9


@dataclass(frozen=True)
class Contract:
    """What one exported model takes, gives and refuses."""

    export_id: str  # the same in every folder of one export: a mixture of two exports is refused
    model: str  # name of the .nemo
    model_sha256: str
    onnx_sha256: str
    vocabulary: dict[str, Any]  # `ko_asr.runtime.ctc.Vocabulary.to_json`
    blank_id: int
    mels: int
    sample_rate: int  # Hz
    hop: int  # samples a log-mel frame
    subsampling: int  # log-mel frames an encoder frame
    min_samples: int  # shorter audio has no features
    max_samples: int  # longer audio is refused
    bucket_frames: list[int]  # features are zero-padded to one of these lengths, so that batches form
    max_batch_size: int
    target: str = "onnx"  # what runs the encoder: "onnx" or "tensorrt"
    precision: str = "fp32"
    front_end: str = "numpy"  # what computes the log-mel features: "numpy" (the preprocessor) or "graph"
    versions: dict[str, str] = field(default_factory=dict)
    parity: dict[str, float] = field(default_factory=dict)  # figures of the gate that let it through
    format: int = FORMAT

    @property
    def frame_seconds(self) -> float:
        """Seconds an encoder frame covers."""
        return self.hop * self.subsampling / self.sample_rate

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the ensemble in the order of the data, itself last."""
        front = (
            (tensors.PREPROCESSOR, tensors.LOG_MEL) if self.front_end == "graph" else (tensors.PREPROCESSOR,)
        )
        return (*front, tensors.ENCODER, tensors.DECODER, tensors.ENSEMBLE)

    def text_vocabulary(self) -> Vocabulary:
        """The vocabulary as the decoder uses it."""
        return Vocabulary.from_json(self.vocabulary)

    def bucket(self, frames: int) -> int:
        """The padded length for ``frames`` log-mel frames: the smallest bucket that holds them."""
        return next((size for size in self.bucket_frames if size >= frames), frames)

    def padded_samples(self, frames: int) -> int:
        """Samples that the log-mel graph turns into exactly ``frames``: room for all audio that has so many.

        Such audio has up to ``hop - 1`` samples after its last whole hop.
        """
        return (frames + 1) * self.hop

    def dump(self) -> str:
        """The contract as JSON text."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def load(cls, folder: str | Path) -> "Contract":
        """Read the contract of a model folder. Raises UserError when it is missing or of another format."""
        path = Path(folder) / file_names.CONTRACT
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise UserError(f"no {path}: fill the repository with python export/to_triton.py") from error
        except ValueError as error:
            raise UserError(f"{path} is not JSON: export the model again") from error
        if data.get("format") != FORMAT:
            raise UserError(f"{path} has format {data.get('format')}, not {FORMAT}: export the model again")
        return cls(**data)


# Step in log-mel frames and largest padding as a share of the length, by what runs the encoder. A CPU gains
# little from batches (7 % at four rows), so it pads little, and whole fifths of a second not at all; a GPU
# lives from batches, and TensorRT from few shapes.
BUCKETS = {"onnx": (20, 32), "tensorrt": (32, 8)}


def bucket_lengths(max_frames: int, step: int, share: int) -> list[int]:
    """Padded lengths up to ``max_frames``: multiples of ``step``, spaced by up to 1/``share`` of the length.

    >>> bucket_lengths(300, step=20, share=10)
    [20, 40, 60, 80, 100, 120, 140, 160, 180, 200, 220, 240, 260, 280, 300]
    >>> bucket_lengths(1000, step=20, share=10)[-5:]
    [720, 780, 840, 920, 1000]
    """
    lengths: list[int] = []
    current = 0
    while current < max_frames:
        current += max(step, current // share // step * step)
        lengths.append(min(current, max_frames))
    return lengths
