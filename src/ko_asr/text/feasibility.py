"""Statistics of a tokenizer on a manifest: tokens a second, unknowns, and utterances CTC cannot align.

NeMo builds its CTC loss with ``zero_infinity=True``, so an utterance with more tokens than encoder frames
trains nothing and says nothing. The law itself is in ``ko_asr.runtime.frames``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ko_asr.errors import UserError
from ko_asr.runtime.frames import (
    DEFAULT_MAX_INFEASIBLE,
    encoder_frames,
    mel_frames,
    required_frames,
    samples_of,
)

SUBSAMPLINGS = (4, 8)


@dataclass
class TokenStatistics:
    """Sums over the utterances of one manifest under one tokenizer."""

    subsamplings: tuple[int, ...] = SUBSAMPLINGS
    causal: bool = False
    utterances: int = 0
    seconds: float = 0.0
    longest: float = 0.0  # seconds
    tokens: int = 0
    unknown: int = 0
    infeasible: dict[int, int] = field(default_factory=dict)  # subsampling -> utterances
    longest_ratio: dict[int, float] = field(default_factory=dict)  # subsampling -> most frames needed of one
    worst: dict[int, str] = field(default_factory=dict)  # subsampling -> the text with that ratio

    def add(self, tokens: list[int], unknown_id: int, duration: float, text: str) -> None:
        """Count one utterance of ``duration`` seconds."""
        self.utterances += 1
        self.seconds += duration
        self.longest = max(self.longest, duration)
        self.tokens += len(tokens)
        self.unknown += tokens.count(unknown_id)
        needed = required_frames(tokens)
        mel = mel_frames(samples_of(duration))
        for subsampling in self.subsamplings:
            frames = encoder_frames(mel, subsampling, self.causal)
            ratio = needed / frames if frames else float("inf")
            self.infeasible[subsampling] = self.infeasible.get(subsampling, 0) + (needed > frames)
            if ratio > self.longest_ratio.get(subsampling, -1.0):
                self.longest_ratio[subsampling] = ratio
                self.worst[subsampling] = text

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def unknown_rate(self) -> float:
        """Share of unknown tokens among all tokens."""
        return self.unknown / self.tokens if self.tokens else 0.0

    def infeasible_share(self, subsampling: int) -> float:
        """Return the share of utterances that need more frames than the encoder gives."""
        return self.infeasible.get(subsampling, 0) / self.utterances if self.utterances else 0.0


def token_statistics(
    entries: Iterable[dict[str, Any]],
    processor: Any,
    subsamplings: tuple[int, ...] = SUBSAMPLINGS,
    causal: bool = False,
) -> TokenStatistics:
    """Count manifest ``entries`` under a SentencePiece ``processor``, in one pass."""
    statistics = TokenStatistics(subsamplings, causal)
    unknown_id = processor.unk_id()
    for entry in entries:
        tokens = processor.encode(entry["text"])
        statistics.add(tokens, unknown_id, entry["duration"], entry["text"])
    return statistics


def refuse_unknown(statistics: TokenStatistics, limit: float, tokenizer: str) -> None:
    """Raise UserError when more than ``limit`` of the tokens are unknown: ``tokenizer`` is of another corpus.

    An unknown token decodes to none of the spoken words, in the references as well: no score would show it.
    """
    if statistics.unknown_rate > limit:
        raise UserError(
            f"{statistics.unknown_rate:.1%} of the training text's tokens are unknown to {tokenizer} (limit "
            f"{limit:.1%}): build a tokenizer from this corpus with python tokenizers/build.py, prepare the "
            "text with the rules it was built with, or raise max_unknown"
        )


def refuse_infeasible(
    statistics: TokenStatistics,
    subsampling: int,
    limit: float = DEFAULT_MAX_INFEASIBLE,
    base_model: str | None = None,
) -> None:
    """Raise UserError, which says what to change, when the infeasible share is above ``limit``.

    The subsampling cannot change where it is that of the weights of a ``base_model``.
    """
    share = statistics.infeasible_share(subsampling)
    if share > limit:
        finer = max(subsampling // 2, 1)
        other = (
            f"another base model than {base_model} with {finer}x subsampling"
            if base_model
            else f"model.encoder.subsampling_factor={finer}"
        )
        raise UserError(
            f"{share:.1%} of the training utterances have more tokens than the encoder has frames at "
            f"{subsampling}x subsampling (limit {limit:.1%}): use a tokenizer with longer tokens, or {other}"
            ", or raise max_infeasible"
        )
