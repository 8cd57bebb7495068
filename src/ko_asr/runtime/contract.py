"""The offline contract: one JSON file, written by export, that every other part of serving reads.

It names the tensors, the vocabulary, the frame arithmetic and the limits of one exported model, so that no
config, client or test repeats them. Each model folder of the repository holds a copy.
"""

from dataclasses import dataclass
from typing import ClassVar

from ko_asr.runtime import file_names, tensors
from ko_asr.runtime.model_contract import ModelContract


@dataclass(frozen=True, kw_only=True)
class Contract(ModelContract):
    """The contract of a model for whole recordings: what its ensemble takes, gives and refuses."""

    FILE: ClassVar[str] = file_names.CONTRACT
    MISSING: ClassVar[str] = "fill the repository with python export/to_triton.py"

    min_samples: int  # shorter audio has no features
    max_samples: int  # longer audio is refused
    bucket_frames: list[int]  # features are zero-padded to one of these lengths, so that batches form
    max_batch_size: int
    top_k: int = 1  # best tokens given a frame; 1 in exports that take no keywords

    @property
    def models(self) -> tuple[str, ...]:
        """The models of the ensemble in the order of the data, itself last."""
        front = (
            (tensors.PREPROCESSOR, tensors.LOG_MEL) if self.front_end == "graph" else (tensors.PREPROCESSOR,)
        )
        return (*front, tensors.ENCODER, tensors.DECODER, tensors.ENSEMBLE)

    def bucket(self, frames: int) -> int:
        """The padded length for ``frames`` log-mel frames: the smallest bucket that holds them."""
        return next((size for size in self.bucket_frames if size >= frames), frames)

    def padded_samples(self, frames: int) -> int:
        """Samples that the log-mel graph turns into exactly ``frames``: room for all audio that has so many.

        Such audio has up to ``hop - 1`` samples after its last whole hop.
        """
        return (frames + 1) * self.hop


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
