"""Greedy CTC in numpy: frames to tokens, tokens to text, and the confidence in them.

Runs inside the server. Collapsing is Graves et al.
2006, section 2: merge repeats, then drop blanks. Pieces are SentencePiece's; `Vocabulary.text` gives what
``SentencePieceProcessor.decode`` gives, which export checks on random token sequences.
"""

import codecs
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ko_asr.errors import UserError
from ko_asr.runtime import hangul

SPACE = "▁"  # U+2581, SentencePiece's word boundary
UNKNOWN_SURFACE = " ⁇ "  # what SentencePiece writes for <unk>
TEXT_RULES = ("identity", "compose", "compose_compat")
_HIGHEST_LOG_PROB = 0.01  # 0, and what rounding to half precision may add

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_SYLLABLE_OR_JAMO = re.compile(f"[{hangul.ONSETS}][{hangul.NUCLEI}][{hangul.CODAS}]?|[{hangul.JAMO}]")


class Token(NamedTuple):
    """One emitted token: its id, frames ``start`` (included) to ``end`` (not), its best log-probability."""

    id: int
    start: int
    end: int
    log_prob: float


def check_frames(token_ids: np.ndarray, log_probs: np.ndarray, blank_id: int) -> None:
    """Raise UserError for frames that no encoder of this vocabulary gives; both arrays have one shape."""
    if token_ids.shape != log_probs.shape:
        raise UserError(f"token ids of shape {token_ids.shape} have log-probabilities of {log_probs.shape}")
    if ((token_ids < 0) | (token_ids > blank_id)).any():
        raise UserError(f"token ids lie outside the vocabulary: they go from 0 to {blank_id}")
    if not (log_probs <= _HIGHEST_LOG_PROB).all():  # NaN fails, and -inf is a probability of 0
        raise UserError("log-probabilities hold NaN or values above 0")


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
    starts = np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1])
    ends = np.concatenate([starts[1:], [ids.size]])
    best = np.maximum.reduceat(scores, starts)
    kept = ids[starts] != blank_id
    columns = (column[kept].tolist() for column in (ids[starts], starts, ends, best))
    return list(map(Token, *columns))


def confidence(tokens: Sequence[Token], log_probs: np.ndarray) -> float:
    """Mean probability of the emitted tokens, in 0..1.

    With no token, the mean probability of blank over the frames ``log_probs`` [frames]: the confidence
    in silence. With no frame either, 0. It is not calibrated.
    """
    if tokens:
        return float(np.mean(np.exp([token.log_prob for token in tokens])))
    return float(np.mean(np.exp(log_probs))) if np.size(log_probs) else 0.0


class Character(NamedTuple):
    """One character of a text, spelled by the tokens at ``first`` to ``last``, both included."""

    text: str
    first: int
    last: int


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

    def text(self, token_ids: Iterable[int], at_start: bool = True) -> str:
        """The text of token ids as SentencePiece decodes them: the first word's leading space is dropped.

        ``at_start=False`` for tokens that continue a text: then it is not.

        >>> Vocabulary(("<unk>", "▁안녕", "하세요", "▁")).text([1, 2, 3, 0])
        '안녕하세요  ⁇ '
        """
        ids = list(token_ids)
        surfaces = [self._surfaces[token] for token in ids]
        if None in surfaces:  # bytes of a character: several tokens have one surface
            return "".join(character.text for character in self.characters(ids, at_start))
        for position, token in enumerate(ids if at_start else ()):
            if token != self.unknown_id:
                surfaces[position] = surfaces[position].removeprefix(" ")
            if surfaces[position]:
                break
        return _joined("".join(surfaces), self.rule)

    @cached_property
    def _surfaces(self) -> list[Any]:
        """The surface of each token inside a text, by id; None for a byte."""
        return [
            None if _BYTE_PIECE.fullmatch(piece) else self._surface(token, piece, first=False)
            for token, piece in enumerate(self.pieces)
        ]

    def characters(self, token_ids: Iterable[int], at_start: bool = True) -> list[Character]:
        """`text` character by character, each with the positions in ``token_ids`` of its tokens.

        ``at_start=False`` for tokens that continue a text: then no leading space is dropped.

        >>> jamo = Vocabulary(("<unk>", *hangul.decompose("각")), rule="compose")
        >>> jamo.characters([1, 2, 3, 1, 2])
        [Character(text='각', first=0, last=2), Character(text='가', first=3, last=4)]
        """
        return _join_jamo(list(self._spell(token_ids, at_start)), self.rule)

    def begins_word(self, token: int) -> bool:
        """True when the token's surface begins with a space: what came before can no longer change."""
        return token == self.unknown_id or self.pieces[token].startswith(SPACE)

    def _spell(self, token_ids: Iterable[int], at_start: bool) -> Iterator[Character]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # as SentencePiece: no UTF-8 is U+FFFD
        position = run = -1  # `run`: the first byte piece of the character that is being read, or -1
        for position, token in enumerate(token_ids):
            piece = self.pieces[token]
            if byte := _BYTE_PIECE.fullmatch(piece):
                run = position if run < 0 else run
                if chars := decoder.decode(bytes([int(byte[1], 16)])):
                    yield from (Character(char, run, position) for char in chars)
                    run = position if decoder.getstate()[0] else -1
                at_start = False
                continue
            if run >= 0:
                yield from (Character(char, run, position - 1) for char in decoder.decode(b"", final=True))
                decoder.reset()
                run = -1
            surface = self._surface(token, piece, at_start)
            yield from (Character(char, position, position) for char in surface)
            at_start = at_start and not surface
        if run >= 0:
            yield from (Character(char, run, position) for char in decoder.decode(b"", final=True))

    def _surface(self, token: int, piece: str, first: bool) -> str:
        if token == self.unknown_id:
            return UNKNOWN_SURFACE
        if token in self.silent:
            return ""
        surface = piece.replace(SPACE, " ")
        return surface[1:] if first and surface.startswith(" ") else surface


def _joined(raw: str, rule: str) -> str:
    """The text that `_join_jamo` makes of the characters of ``raw``."""
    if rule == "identity":
        return raw
    if rule == "compose":
        return hangul.compose(raw)
    return _SYLLABLE_OR_JAMO.sub(lambda match: hangul.to_compat(hangul.compose(match[0])), raw)


def _join_jamo(spelled: list[Character], rule: str) -> list[Character]:
    if rule == "identity":
        return spelled
    raw = "".join(character.text for character in spelled)
    joined, done = [], 0
    for match in (hangul.COMPOSABLE if rule == "compose" else _SYLLABLE_OR_JAMO).finditer(raw):
        joined += spelled[done : match.start()]
        done = match.end()
        part = spelled[match.start() : done]
        text = hangul.compose(match[0])
        if len(text) > 1:  # a syllable that has a coda already, and another coda
            joined += part
        else:
            text = text if rule == "compose" else hangul.to_compat(text)
            joined.append(Character(text, part[0].first, part[-1].last))
    return joined + spelled[done:]
