"""Greedy CTC in numpy: frames to tokens, tokens to text, and how sure the model was.

Runs inside the server, so it needs numpy and ``ko_asr.hangul`` only. Collapsing is Graves et al. 2006,
section 2: merge repeats, then drop blanks. Pieces are SentencePiece's; `Vocabulary.text` gives what
``SentencePieceProcessor.decode`` gives, which export checks on random token sequences.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ko_asr import hangul

SPACE = "▁"  # U+2581, SentencePiece's word boundary
UNKNOWN_SURFACE = " ⁇ "  # what SentencePiece writes for <unk>
TEXT_RULES = ("identity", "compose", "compose_compat")

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_SYLLABLE_OR_JAMO = re.compile(f"[{hangul.ONSETS}][{hangul.NUCLEI}][{hangul.CODAS}]?|[{hangul.JAMO}]")


@dataclass(frozen=True)
class Token:
    """One emitted token: its id, frames ``start`` (included) to ``end`` (not), its best log-probability."""

    id: int
    start: int
    end: int
    log_prob: float


def collapse(token_ids: np.ndarray, blank_id: int, log_probs: np.ndarray | None = None) -> list[Token]:
    """Collapse the best token of each valid frame, ``token_ids`` [frames], into emitted tokens.

    ``log_probs`` [frames] are the log-probabilities of those tokens (0 when left out). A token that holds
    for several frames keeps its highest one.

    >>> [(t.id, t.start, t.end) for t in collapse(np.array([3, 3, 9, 3, 5, 5]), 9)]
    [(3, 0, 2), (3, 3, 4), (5, 4, 6)]
    """
    ids = np.asarray(token_ids)
    if ids.size == 0:
        return []
    scores = np.zeros(ids.shape, np.float32) if log_probs is None else np.asarray(log_probs)
    starts = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]])
    ends = np.r_[starts[1:], ids.size]
    best = np.maximum.reduceat(scores, starts)
    return [
        Token(int(ids[start]), int(start), int(end), float(score))
        for start, end, score in zip(starts, ends, best, strict=True)
        if ids[start] != blank_id
    ]


def confidence(tokens: Sequence[Token], log_probs: np.ndarray) -> float:
    """Mean probability of the emitted tokens, in 0..1.

    With no token, the mean probability of blank over the frames ``log_probs`` [frames]: how sure the model
    is that nothing was said. With no frame either, 0. It is not calibrated.
    """
    if tokens:
        return float(np.mean(np.exp([token.log_prob for token in tokens])))
    return float(np.mean(np.exp(log_probs))) if np.size(log_probs) else 0.0


@dataclass(frozen=True)
class Vocabulary:
    """SentencePiece pieces in id order (blank is not among them) and the rule from pieces to text.

    ``rule``: ``identity`` joins pieces; ``compose`` joins conjoining jamo into syllables afterwards;
    ``compose_compat`` also writes jamo that form no syllable as compatibility jamo (ㅋㅋ).
    ``silent`` holds the ids of control pieces, which have no surface.
    """

    pieces: tuple[str, ...]
    unknown_id: int = 0
    silent: frozenset[int] = frozenset()
    rule: str = "identity"

    def __post_init__(self) -> None:
        if self.rule not in TEXT_RULES:
            raise ValueError(f"unknown text rule {self.rule!r}: one of {', '.join(TEXT_RULES)}")

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Vocabulary":
        """Rebuild from `to_json`'s dictionary."""
        return cls(tuple(data["pieces"]), data["unknown_id"], frozenset(data["silent"]), data["rule"])

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values."""
        return {
            "pieces": list(self.pieces),
            "unknown_id": self.unknown_id,
            "silent": sorted(self.silent),
            "rule": self.rule,
        }

    def text(self, token_ids: Iterable[int]) -> str:
        """The text of token ids as SentencePiece decodes them: the first word's leading space is dropped.

        >>> Vocabulary(("<unk>", "▁안녕", "하세요", "▁")).text([1, 2, 3, 0])
        '안녕하세요  ⁇ '
        """
        parts: list[str] = []
        pending = bytearray()
        for token in token_ids:
            piece = self.pieces[token]
            if byte := _BYTE_PIECE.fullmatch(piece):
                pending.append(int(byte[1], 16))
                continue
            _flush(parts, pending)
            parts.append(self._surface(token, piece, first=not any(parts)))
        _flush(parts, pending)
        return _join_jamo("".join(parts), self.rule)

    def _surface(self, token: int, piece: str, first: bool) -> str:
        if token == self.unknown_id:
            return UNKNOWN_SURFACE
        if token in self.silent:
            return ""
        surface = piece.replace(SPACE, " ")
        return surface[1:] if first and surface.startswith(" ") else surface


def _flush(parts: list[str], pending: bytearray) -> None:
    """Decode byte-fallback pieces; bytes that are no UTF-8 become U+FFFD, as in SentencePiece."""
    if pending:
        parts.append(pending.decode("utf-8", errors="replace"))
        pending.clear()


def _join_jamo(text: str, rule: str) -> str:
    if rule == "identity":
        return text
    if rule == "compose":
        return hangul.compose(text)
    return _SYLLABLE_OR_JAMO.sub(
        lambda match: hangul.COMPOSITION.get(match[0]) or hangul.to_compat(match[0]), text
    )
