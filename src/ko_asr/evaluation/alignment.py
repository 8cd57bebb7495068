"""Many edit-distance alignments at once in numpy: the base of the jamo error rates and of sWER.

Libraries align quickly by whole symbols. Two things are asked here that they do not give: a substitution
that costs as many jamo as differ (각 -> 간 is one of three, so it aligns before 각 -> 몸), and the tie rule
of ETRI's published sWER script. Pairs are sorted by length and aligned a block at a time, row by row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ko_asr.runtime.hangul import CODA_COUNT, NUCLEUS_COUNT, SYLLABLE_FIRST, SYLLABLE_LAST

# Cells of one block's table, int32: about 4 MB, so that it stays in the second-level cache's reach.
_BLOCK_CELLS = 1_000_000
# A pair above this many cells (about 8,000 characters a side, half an hour of speech) goes to rapidfuzz.
_LONG_PAIR_CELLS = 64_000_000


@dataclass(frozen=True)
class Alignment:
    """Aligned positions of many pairs, flattened: three int64 arrays of one length.

    ``pair`` is the pair's number, ``ref`` and ``hyp`` are positions in the concatenation of all references
    and of all hypotheses, -1 where the other side has nothing (insertion, deletion). Rows come pair by pair
    and from left to right.
    """

    pair: np.ndarray
    ref: np.ndarray
    hyp: np.ndarray


def code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All texts' code points in one uint32 array, and the offsets where each text starts (length n + 1).

    >>> codes, offsets = code_points(["가", "", "ab"])
    >>> codes.tolist(), offsets.tolist()
    ([44032, 97, 98], [0, 1, 1, 3])
    """
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    joined = "".join(texts).encode("utf-32-le", "surrogatepass")
    return np.frombuffer(joined, np.uint32), offsets


def jamo_parts(codes: np.ndarray) -> np.ndarray:
    """Onset, nucleus and coda of each code point, as 1-based indexes in a uint8 array of shape [n, 3].

    0 means "none": a syllable without a coda, or all three for what is no syllable.

    >>> jamo_parts(np.array([ord("각"), ord("가"), ord("a")])).tolist()
    [[1, 1, 1], [1, 1, 0], [0, 0, 0]]
    """
    parts = np.zeros((len(codes), 3), np.uint8)
    is_syllable = (codes >= SYLLABLE_FIRST) & (codes <= SYLLABLE_LAST)
    index = codes[is_syllable].astype(np.int64) - SYLLABLE_FIRST
    parts[is_syllable, 0] = index // (NUCLEUS_COUNT * CODA_COUNT) + 1
    parts[is_syllable, 1] = index // CODA_COUNT % NUCLEUS_COUNT + 1
    parts[is_syllable, 2] = index % CODA_COUNT
    return parts


def _comparable(codes: np.ndarray, by_jamo: bool) -> np.ndarray:
    """Parts to compare (all rows but the last) and the cost of a gap (the last row), int32 [parts + 1, n].

    The parts are the three jamo, or the code point itself where it is no syllable or jamo do not matter.
    """
    if not by_jamo:
        return np.stack([codes.astype(np.int32), np.ones(len(codes), np.int32)])
    parts = jamo_parts(codes).astype(np.int32).T
    gap = np.count_nonzero(parts, axis=0).astype(np.int32)
    other = gap == 0
    parts[:, other] = codes[other].astype(np.int32) + 64  # above every jamo index, so never equal to one
    gap[other] = len(parts)
    return np.vstack([parts, gap])


def _padded(
    values: np.ndarray, offsets: np.ndarray, pairs: np.ndarray, width: int, filler: int
) -> np.ndarray:
    """Rows of ``values`` for the given pairs as [parts, pairs, width], filled up with ``filler``."""
    columns = offsets[pairs][:, None] + np.arange(width)
    inside = columns < offsets[pairs + 1][:, None]
    if values.shape[1] == 0:
        return np.full((values.shape[0], len(pairs), width), filler, np.int32)
    taken = values[:, np.minimum(columns, values.shape[1] - 1)]
    return np.where(inside, taken, filler)


def _substitution(ref: np.ndarray, hyp: np.ndarray) -> np.ndarray:
    """The number of parts that differ; the last row, the gap's cost, is not compared."""
    cost = (ref[0] != hyp[0]).astype(np.int32)
    for part in range(1, len(ref) - 1):
        cost += ref[part] != hyp[part]
    return cost


def _table(ref: np.ndarray, hyp: np.ndarray) -> np.ndarray:
    """Edit costs of every prefix pair, int32 [n + 1, pairs, m + 1], of [parts + 1, pairs, n] and [.., m].

    Insertions inside a row depend on their left neighbour; taking the cost of all insertions up to a column
    off first turns that chain into a running minimum, so a whole row is a few array operations.
    """
    _, pairs, n = ref.shape
    inserted = np.zeros((pairs, hyp.shape[2] + 1), np.int32)
    np.cumsum(hyp[-1], axis=1, out=inserted[:, 1:])
    table = np.empty((n + 1, pairs, hyp.shape[2] + 1), np.int32)
    table[0] = inserted
    for i in range(1, n + 1):
        above, row, now = table[i - 1], table[i], ref[:, :, i - 1, None]
        row[:, 0] = above[:, 0] + now[-1, :, 0]
        np.minimum(above[:, :-1] + _substitution(now, hyp), above[:, 1:] + now[-1], out=row[:, 1:])
        row -= inserted
        np.minimum.accumulate(row, axis=1, out=row)
        row += inserted
    return table


def _trace_back(
    table: np.ndarray, ref: np.ndarray, hyp: np.ndarray, n: np.ndarray, m: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Walk every pair from its end: int64 [steps, pairs] positions, -1 for a gap, -2 where the walk is over.

    Ties as in ETRI's script: substitution or match first, then deletion, then insertion.
    """
    i, j = n.copy(), m.copy()
    b = np.arange(len(n))
    ref_steps, hyp_steps = [], []
    while (alive := (i > 0) | (j > 0)).any():
        up, left = np.maximum(i - 1, 0), np.maximum(j - 1, 0)
        here, now, then = table[i, b, j], ref[:, b, up], hyp[:, b, left]
        diagonal = (i > 0) & (j > 0) & (table[up, b, left] + _substitution(now, then) == here)
        deletion = ~diagonal & (i > 0) & (table[up, b, j] + now[-1] == here)
        insertion = alive & ~diagonal & ~deletion
        ref_steps.append(np.where(diagonal | deletion, i - 1, np.where(alive, -1, -2)))
        hyp_steps.append(np.where(diagonal | insertion, j - 1, np.where(alive, -1, -2)))
        i = i - (diagonal | deletion)
        j = j - (diagonal | insertion)
    return np.array(ref_steps), np.array(hyp_steps)


def _blocks(n: np.ndarray, m: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs in order of size, cut into blocks whose padded table holds at most `_BLOCK_CELLS` cells."""
    order = np.lexsort((m, n))
    start = 0
    while start < len(order):
        # sizes grow with the order in n; m is bounded by its running maximum inside the block
        width = np.maximum.accumulate(m[order[start : start + 4096]]) + 1
        height = n[order[start : start + 4096]] + 1
        cells = width * height * np.arange(1, len(width) + 1)
        count = max(1, int(np.searchsorted(cells, _BLOCK_CELLS, side="right")))
        yield order[start : start + count]
        start += count


def _align_block(
    ref: np.ndarray, hyp: np.ndarray, ref_at: np.ndarray, hyp_at: np.ndarray, pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, m = ref_at[pairs + 1] - ref_at[pairs], hyp_at[pairs + 1] - hyp_at[pairs]
    # at least one column, so that indexing an empty side stays legal; -1 and -2 never equal anything
    ref_block = _padded(ref, ref_at, pairs, max(1, int(n.max())), -1)
    hyp_block = _padded(hyp, hyp_at, pairs, max(1, int(m.max())), -2)
    rows, columns = _trace_back(_table(ref_block, hyp_block), ref_block, hyp_block, n, m)
    # the walk went backwards, pair beside pair: turn it round and put pair after pair
    rows, columns = rows[::-1].T, columns[::-1].T
    keep = rows > -2
    rows = np.where(rows >= 0, rows + ref_at[pairs][:, None], -1)[keep]
    columns = np.where(columns >= 0, columns + hyp_at[pairs][:, None], -1)[keep]
    return np.repeat(pairs, keep.sum(1)), rows, columns


def _align_long_pair(
    ref: np.ndarray, hyp: np.ndarray, ref_at: np.ndarray, hyp_at: np.ndarray, pair: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One pair whose table would not fit in memory: rapidfuzz's linear-memory alignment by whole symbols."""
    from rapidfuzz.distance import Levenshtein

    rows: list[np.ndarray] = []
    columns: list[np.ndarray] = []
    left = [tuple(part) for part in ref[:, ref_at[pair] : ref_at[pair + 1]].T.tolist()]
    right = [tuple(part) for part in hyp[:, hyp_at[pair] : hyp_at[pair + 1]].T.tolist()]
    for op in Levenshtein.opcodes(left, right):
        a, b = np.arange(op.src_start, op.src_end), np.arange(op.dest_start, op.dest_end)
        rows.append(ref_at[pair] + a if len(a) else np.full(len(b), -1))
        columns.append(hyp_at[pair] + b if len(b) else np.full(len(a), -1))
    flat_rows, flat_columns = np.concatenate(rows), np.concatenate(columns)
    return np.full(len(flat_rows), pair), flat_rows, flat_columns


def align(references: Sequence[str], hypotheses: Sequence[str], by_jamo: bool = False) -> Alignment:
    """Align each reference with its hypothesis, character by character, at the least cost.

    With ``by_jamo`` a substitution costs the number of differing parts (onset, nucleus, coda) and a gap the
    number of its jamo, so the alignment explains the hypothesis with the fewest jamo errors that keep
    syllables whole; otherwise every edit costs one. The two sequences must be of one length (ValueError).

    >>> result = align(["간다"], ["안간다"], by_jamo=True)
    >>> result.ref.tolist(), result.hyp.tolist()
    ([-1, 0, 1], [0, 1, 2])
    """
    if len(references) != len(hypotheses):
        raise ValueError(f"{len(references)} references but {len(hypotheses)} hypotheses")
    ref_codes, ref_at = code_points(references)
    hyp_codes, hyp_at = code_points(hypotheses)
    ref, hyp = _comparable(ref_codes, by_jamo), _comparable(hyp_codes, by_jamo)
    n, m = np.diff(ref_at), np.diff(hyp_at)
    long = (n + 1) * (m + 1) > _LONG_PAIR_CELLS
    found = [_align_long_pair(ref, hyp, ref_at, hyp_at, int(pair)) for pair in np.flatnonzero(long)]
    short = np.flatnonzero(~long & ((n > 0) | (m > 0)))
    found += [_align_block(ref, hyp, ref_at, hyp_at, short[block]) for block in _blocks(n[short], m[short])]
    if not found:
        empty = np.empty(0, np.int64)
        return Alignment(empty, empty, empty)
    pair, rows, columns = (np.concatenate(column) for column in zip(*found, strict=True))
    order = np.argsort(pair, kind="stable")
    return Alignment(pair[order], rows[order], columns[order])
