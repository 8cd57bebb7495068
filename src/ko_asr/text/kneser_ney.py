"""Interpolated modified Kneser-Ney n-grams in numpy, for machines without lmplz; the same numbers, in memory.

Chen and Goodman 1999, with the conventions of Heafield et al. 2013 (lmplz): lower orders count distinct left
neighbours, n-grams that begin with <s> keep their plain counts, unigrams interpolate with a uniform
distribution over the vocabulary and <unk>, nothing is pruned. It needs about 60 bytes a token and order.

The two agree to the digits of the file but for one slip of lmplz: its counts of counts take the last n-gram
of each lower order by its plain count, which shows in texts of a few thousand words and never in large ones.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # lmplz --discount_fallback, for text too small to estimate them from


@dataclass
class Order:
    """Distinct n-grams of one order, sorted by prefix: parallel arrays, one row an n-gram.

    ``prefix`` and ``suffix`` are rows of the next lower order; unigrams have none, and row = word.
    """

    word: np.ndarray
    prefix: np.ndarray
    suffix: np.ndarray
    count: np.ndarray  # adjusted
    begins: np.ndarray  # whether the n-gram begins with <s>
    probability: np.ndarray
    backoff: np.ndarray


def _grams(tokens: np.ndarray, begin: int, highest: int) -> list[Order]:
    """Find the distinct n-grams of each order in ``tokens``: sentence after sentence, with <s> and </s>."""
    size = int(tokens.max(initial=begin)) + 1
    ids = tokens.astype(np.int64)  # of the n-gram that begins at each position, -1 where it would cross <s>
    count = np.bincount(tokens, minlength=size)
    rows = np.arange(size)
    orders = [_order(rows, rows * 0, rows * 0, count, rows == begin)]
    for n in range(2, highest + 1):
        places = np.flatnonzero((ids[:-1] >= 0)[: len(tokens) - n + 1])
        places = places[tokens[places + n - 1] != begin]
        keys = ids[places] * size + tokens[places + n - 1]
        unique, first, inverse, count = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        at = places[first]
        orders.append(_order(unique % size, ids[at], ids[at + 1], count, tokens[at] == begin))
        ids = np.full(len(tokens), -1, np.int64)
        ids[places] = inverse
    for lower, higher in itertools.pairwise(orders):
        left_neighbours = np.bincount(higher.suffix, minlength=len(lower.word))
        lower.count = np.where(lower.begins, lower.count, left_neighbours)
    orders[0].count[begin] = 0
    return orders


def _order(
    word: np.ndarray, prefix: np.ndarray, suffix: np.ndarray, count: np.ndarray, begins: np.ndarray
) -> Order:
    return Order(word, prefix, suffix, count, begins, np.zeros(len(word)), np.ones(len(word)))


def discounts(counts: np.ndarray) -> tuple[float, float, float]:
    """Estimate the discounts of n-grams seen once, twice and more often, from their adjusted counts.

    The fallback where the counts of counts allow none, as in a text of a few sentences.
    """
    once, twice, thrice, four = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not (once and twice and thrice):
        return FALLBACK_DISCOUNTS
    ratio = once / (once + 2 * twice)
    found = (1 - 2 * ratio * twice / once, 2 - 3 * ratio * thrice / twice, 3 - 4 * ratio * four / thrice)
    valid = all(0 <= discount <= k for k, discount in enumerate(found, 1))
    return found if valid else FALLBACK_DISCOUNTS


def estimate(tokens: np.ndarray, begin: int, order: int) -> tuple[list[Order], float]:
    """Estimate probability and back-off weight of every n-gram up to ``order``, and probability of <unk>.

    ``tokens`` int [n]: sentences as <s> (``begin``) w ... </s>, one after another; words are 0 to
    ``begin`` + 1, which is </s>. A word that never occurs is none of the model's.
    """
    orders = _grams(np.asarray(tokens), begin, order)
    unknown = 0.0
    for n, grams in enumerate(orders):
        taken = np.array([0.0, *discounts(grams.count)])[np.minimum(grams.count, 3)]
        contexts = len(orders[n - 1].word) if n else 1
        total = np.maximum(np.bincount(grams.prefix, grams.count, contexts), 1)
        left_over = np.bincount(grams.prefix, taken, contexts) / total
        grams.probability = (grams.count - taken) / total[grams.prefix]
        if n:
            grams.probability += left_over[grams.prefix] * orders[n - 1].probability[grams.suffix]
            extended = np.bincount(grams.prefix, minlength=contexts) > 0
            orders[n - 1].backoff = np.where(extended, left_over, 1.0)
        else:
            present = grams.count > 0
            unknown = float(left_over[0]) / (present.sum() + 1)  # uniform over the words and <unk>
            grams.probability = np.where(present, grams.probability + unknown, 0.0)
            grams.probability[begin] = 1.0  # <s> is given, never predicted
    return orders, unknown


def write_arpa(
    stream: IO[str], orders: Sequence[Order], unknown: float, symbols: Sequence[str], begin: int
) -> None:
    """Write ARPA; ``symbols`` names the words below ``begin``, ``unknown`` is the probability of <unk>."""
    words = np.array([*symbols, "<s>", "</s>"], dtype=object)
    present = orders[0].probability > 0
    sizes = [int(present.sum()) + 1, *(len(grams.word) for grams in orders[1:])]
    stream.write("\\data\\\n" + "".join(f"ngram {n}={size}\n" for n, size in enumerate(sizes, 1)))
    names = words
    for n, grams in enumerate(orders, 1):
        names = words if n == 1 else names[grams.prefix] + " " + words[grams.word]
        stream.write(f"\n\\{n}-grams:\n")
        if n == 1:
            stream.write(f"{np.log10(unknown):.7g}\t<unk>\t0\n")
        for row in np.flatnonzero(grams.probability > 0):
            backoff = "" if n == len(orders) else f"\t{np.log10(grams.backoff[row]):.7g}"
            stream.write(f"{np.log10(grams.probability[row]):.7g}\t{names[row]}{backoff}\n")
    stream.write("\n\\end\\\n")
