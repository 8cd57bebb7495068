"""NeMo's own greedy transcription of a manifest, batch by batch, with bad input named before time is lost.

The audio goes to ``model.transcribe_generator`` as a data loader of padded batches. NeMo's file loader would
pad clips under one second on both sides; here a clip is heard as training and the server hear it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ko_asr.audio.read import read_segment
from ko_asr.errors import UserError
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.models.nemo_file import restore_model

# Above this share of reference characters that the vocabulary cannot write, the model is another language's.
MAX_UNWRITABLE = 0.2

OnUnreadable = Callable[[int, str], object]


def load_transcriber(path: str | Path, device: str) -> Any:
    """Restore a model that transcribes; UserError when the file is not a whole one or of another kind."""
    model = restore_model(path, device)
    if not hasattr(model, "transcribe_generator"):
        raise UserError(f"{path} holds a {type(model).__name__}, which does not transcribe speech")
    return model


def unwritable_share(model: NemoCtc, texts: Sequence[str]) -> float:
    """Share of the texts' characters (spaces left out) that the model's vocabulary has no token for."""
    counts: dict[str, int] = {}
    for text in texts:
        for char in text:
            if not char.isspace():
                counts[char] = counts.get(char, 0) + 1
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None:
        unwritable = [c for c in counts if tokenizer.ids_to_text(tokenizer.text_to_ids(c)).strip() != c]
    else:
        vocabulary = set(model.decoder.vocabulary)
        unwritable = [c for c in counts if c not in vocabulary]
    return sum(counts[c] for c in unwritable) / max(1, sum(counts.values()))


def check_vocabulary(model: NemoCtc, texts: Sequence[str]) -> float:
    """The unwritable share, or UserError where it shows that model and manifest do not belong together."""
    share = unwritable_share(model, texts)
    if share > MAX_UNWRITABLE:
        raise UserError(
            f"the model's vocabulary cannot write {share:.0%} of the manifest's characters: "
            "evaluate a model that was trained on this language and these text rules"
        )
    return share


def batches(entries: Sequence[dict], batch_size: int, batch_seconds: float) -> list[list[int]]:
    """Indexes of entries in batches of like length, longest first, so that too little memory shows at once.

    A batch holds at most ``batch_size`` clips and ``batch_seconds`` of padded audio (but always one clip).
    """
    order = sorted(range(len(entries)), key=lambda k: -entries[k]["duration"])
    found: list[list[int]] = []
    for k in order:
        longest = entries[found[-1][0]]["duration"] if found else 0.0
        if not found or len(found[-1]) >= batch_size or longest * (len(found[-1]) + 1) > batch_seconds:
            found.append([])
        found[-1].append(k)
    return found


class _PaddedBatches(IterableDataset):
    """Batches (signal float32 [B, T], lengths int64 [B], None, None) as NeMo's models take them.

    The next batch is read by threads while the model works (libsndfile releases the interpreter lock), so
    that an error in reading reaches the caller as it is, which worker processes would wrap.
    """

    def __init__(
        self, entries: Sequence[dict], groups: list[list[int]], rate: int, on_unreadable: OnUnreadable | None
    ) -> None:
        self._entries, self._groups, self._rate = entries, groups, rate
        self._on_unreadable = on_unreadable

    def _read(self, pool: ThreadPoolExecutor, group: list[int]) -> list:
        return [pool.submit(self._clip, k) for k in group]

    def _clip(self, k: int) -> np.ndarray:
        try:
            return read_segment(self._entries[k], self._rate)
        except UserError as error:
            if self._on_unreadable is None:
                raise
            self._on_unreadable(k, str(error))
            return np.zeros(self._rate // 2, np.float32)

    def __iter__(self) -> Iterator[tuple]:
        with ThreadPoolExecutor(max_workers=4) as pool:
            ahead = self._read(pool, self._groups[0])
            for position in range(len(self._groups)):
                clips = [torch.from_numpy(future.result()) for future in ahead]
                if position + 1 < len(self._groups):
                    ahead = self._read(pool, self._groups[position + 1])
                lengths = torch.tensor([len(clip) for clip in clips])
                yield torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), lengths, None, None


def transcribe(
    model: NemoCtc,
    entries: Sequence[dict],
    batch_size: int = 16,
    batch_seconds: float = 600.0,
    on_batch: Callable[[float], object] = lambda seconds: None,
    on_unreadable: OnUnreadable | None = None,
) -> list[str]:
    """Transcripts of manifest entries, in their order; ``on_batch`` is told each batch's audio seconds.

    ``on_unreadable`` is told the index and the reason of each clip that cannot be read, whose transcript
    means nothing; without it the first one raises UserError.
    """
    from nemo.collections.asr.parts.mixins.transcription import InternalTranscribeConfig, TranscribeConfig

    groups = batches(entries, batch_size, batch_seconds)
    rate = int(model.cfg.preprocessor.sample_rate)
    loader = DataLoader(_PaddedBatches(entries, groups, rate, on_unreadable), batch_size=None)
    config = TranscribeConfig(batch_size=batch_size, verbose=False, _internal=InternalTranscribeConfig())
    texts = [""] * len(entries)
    with torch.inference_mode():
        for group, hypotheses in zip(groups, model.transcribe_generator(loader, config), strict=True):
            for k, hypothesis in zip(group, hypotheses, strict=True):
                texts[k] = getattr(hypothesis, "text", hypothesis)
            on_batch(sum(entries[k]["duration"] for k in group))
    model.eval()  # NeMo leaves the encoder in training mode, batch norm and all
    return texts


def set_attention_context(model: NemoCtc, context: str) -> None:
    """Choose the look-ahead of a cache-aware model, "left,right" in encoder frames.

    UserError when the model was not trained with this context.
    """
    try:
        wanted = [int(part) for part in context.split(",")]
    except ValueError:
        raise UserError(
            f"'{context}' is no attention context: write left,right in frames, such as 70,6"
        ) from None
    known = [list(pair) for pair in getattr(model.encoder, "att_context_size_all", [])]
    if wanted not in known:
        raise UserError(f"the model was not trained with attention context {wanted}: choose one of {known}")
    model.encoder.set_default_att_context_size(wanted)
