"""The gate before a repository is written: what will be served must equal NeMo, measured, not assumed."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr import contract as names
from ko_asr.ctc import TEXT_RULES, Vocabulary
from ko_asr.errors import UserError
from ko_asr.logmel import LogMel

LIMIT = 1e-3  # largest absolute difference allowed, in log-probabilities and in normalised features
# Valid frames of each row of a batch: shortest, odd, mixed and padded, and odd above 2048 (where half
# precision can no longer count).
BATCHES: tuple[tuple[int, ...], ...] = ((2,), (237,), (500, 333, 64, 9), (2051, 777))
_SAMPLES = (400, 5_003, 16_000, 80_000)


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
    import torch

    generator = np.random.default_rng(0)
    figures = []
    for samples in _SAMPLES:
        level = 10 ** generator.uniform(-3, -0.5)
        audio = (level * generator.standard_normal(samples)).astype(np.float32)
        audio[samples // 3 : samples // 2] = 0.0
        with torch.inference_mode():
            theirs, count = model.preprocessor(
                input_signal=torch.from_numpy(audio)[None], length=torch.tensor([samples])
            )
        ours = log_mel(audio)
        wanted = theirs[0, :, : int(count[0])].numpy()
        difference = float(np.abs(ours - wanted).max()) if ours.shape == wanted.shape else float("inf")
        figures.append(Figure(f"log-mel, {samples} samples", difference, LIMIT))
    return figures


def check_graph(model: Any, onnx_path: Path, mels: int, max_frames: int) -> list[Figure]:
    """ONNX Runtime against NeMo frame by frame, padded batches of mixed lengths included.

    Padding is filled with noise, so that a mask that leaks is seen.
    """
    import onnxruntime

    from ko_asr.onnx_export import reference_log_probs

    session = onnxruntime.InferenceSession(str(onnx_path), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    figures = []
    for batch in BATCHES:
        lengths = [min(length, max_frames) for length in batch]
        features = generator.standard_normal((len(lengths), mels, max(lengths))).astype(np.float32)
        outputs = (names.LOG_PROBS, names.TOKEN_IDS, names.TOKEN_LOG_PROBS, names.ENCODED_LENGTH)
        feed = {names.FEATURES: features, names.LENGTH: np.array(lengths, np.int64)[:, None]}
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


def find_vocabulary(processor: Any, sequences: int = 2000) -> Vocabulary:
    """The vocabulary whose text rule decodes random tokens exactly as SentencePiece ``processor`` does.

    Raises UserError when no rule does: then the server would spell differently from NeMo.
    """
    size = processor.get_piece_size()
    pieces = tuple(processor.id_to_piece(i) for i in range(size))
    silent = frozenset(i for i in range(size) if processor.is_control(i))
    generator = random.Random(0)
    probes = [[generator.randrange(size) for _ in range(generator.randint(0, 24))] for _ in range(sequences)]
    probes += [[i] for i in range(size)]
    wanted = [processor.decode(probe) for probe in probes]
    for rule in TEXT_RULES:
        vocabulary = Vocabulary(pieces, processor.unk_id(), silent, rule)
        if all(vocabulary.text(probe) == text for probe, text in zip(probes, wanted, strict=True)):
            return vocabulary
    raise UserError(
        "the tokenizer's denormalisation is none that the server knows: "
        "use a tokenizer built by tokenizers/build.py"
    )
