"""A restored NeMo CTC model as a function from audio to the best tokens of each encoder frame."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ko_asr.audio.corpus_audio import MIN_SECONDS
from ko_asr.errors import UserError
from ko_asr.models.device import device_of
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.models.nemo_file import restore_model
from ko_asr.runtime.ctc import Vocabulary


class Frames(NamedTuple):
    """Best tokens of frames, best first: ids int32 [T, K] and log-probabilities float32 [T, K]."""

    ids: np.ndarray
    log_probs: np.ndarray

    def part(self, begin: int, end: int) -> "Frames":
        """Frames ``begin`` to ``end`` (not included)."""
        return Frames(self.ids[begin:end], self.log_probs[begin:end])


def blank_frames(count: int, blank_id: int, top: int = 1) -> Frames:
    """``count`` frames that are surely blank."""
    log_probs = np.full((count, top), -np.inf, np.float32)
    log_probs[:, 0] = 0.0
    return Frames(np.full((count, top), blank_id, np.int32), log_probs)


class FrameModel:
    """Any EncDecCTCModelBPE, full-context or cache-aware, run with all the context that it is given."""

    def __init__(self, model: NemoCtc, top: int = 1) -> None:
        """``top`` is K, the tokens kept a frame."""
        from ko_asr.models.vocabulary import find_vocabulary

        self.model, self.top = model, top
        featurizer = model.preprocessor.featurizer
        self.sample_rate = int(featurizer.sample_rate)  # Hz
        self.frame_samples = int(featurizer.hop_length) * int(model.encoder.subsampling_factor)
        self.vocabulary: Vocabulary = find_vocabulary(model.tokenizer.tokenizer)
        self.blank_id = len(self.vocabulary.pieces)

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", att_context: str | None = None, top: int = 1
    ) -> "FrameModel":
        """Restore a .nemo; UserError when it is not whole or no CTC model with a SentencePiece tokenizer.

        ``device`` is auto (a GPU if there is one), cpu, cuda or cuda:N, as `device_of` takes it.
        ``att_context`` ("left,right" in frames) chooses the look-ahead of a cache-aware model.
        """
        model = restore_model(path, device_of(device, 'device="cpu"'))
        if type(model).__name__ != "EncDecCTCModelBPE":
            raise UserError(f"{path} is a {type(model).__name__}: give an EncDecCTCModelBPE")
        if att_context:
            from ko_asr.models.transcribe import set_attention_context

            set_attention_context(model, att_context)
        return cls(model, top)

    @property
    def frame_ms(self) -> float:
        """Milliseconds an encoder frame covers."""
        return 1000.0 * self.frame_samples / self.sample_rate

    def frames(self, seconds: float) -> int:
        """``seconds`` in encoder frames, rounded up."""
        return int(np.ceil(seconds * 1000.0 / self.frame_ms - 1e-9))

    def longest_seconds(self) -> float:
        """The longest audio that the encoder's table of positions holds."""
        return int(self.model.encoder.pos_emb_max_len) * self.frame_ms / 1000.0

    def __call__(self, clips: Sequence[np.ndarray]) -> list[Frames]:
        """Frames of each of ``clips`` (float32 [n] in -1..1), as one padded batch.

        A clip shorter than 0.1 s, in which nothing can be said, is blank without asking the model.
        """
        answers = [
            blank_frames(-(-len(clip) // self.frame_samples), self.blank_id, self.top) for clip in clips
        ]
        heard = [k for k, clip in enumerate(clips) if len(clip) >= MIN_SECONDS * self.sample_rate]
        for k, frames in zip(heard, self._forward([clips[k] for k in heard]) if heard else [], strict=True):
            answers[k] = frames
        return answers

    def _forward(self, clips: Sequence[np.ndarray]) -> list[Frames]:
        import torch

        device = next(self.model.parameters()).device
        lengths = torch.tensor([len(clip) for clip in clips])
        signal = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in zip(signal, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(np.ascontiguousarray(clip))
        with torch.inference_mode():
            features, counts = self.model.preprocessor(
                input_signal=signal.to(device), length=lengths.to(device)
            )
            encoded, counts = self.model.encoder(audio_signal=features, length=counts)
            best = self.model.decoder(encoder_output=encoded).topk(self.top, dim=-1)
        ids, log_probs = best.indices.int().cpu().numpy(), best.values.float().cpu().numpy()
        rows = zip(ids, log_probs, counts.tolist(), strict=True)
        return [Frames(row[:count], scores[:count]) for row, scores, count in rows]
