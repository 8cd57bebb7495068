"""The loss that a fresh model should start from: that of one that finds all symbols equally likely."""

import math
from collections.abc import Sequence
from itertools import pairwise


def uniform_loss(tokens: Sequence[int], frames: int, symbols: int) -> float:
    """CTC loss (nats) of one utterance under a model that gives each of ``symbols`` 1/symbols in each frame.

    All ``symbols ** frames`` paths are equally likely, and C(T + U - R, 2U) of them spell U tokens with R
    equal neighbours in T frames (Graves et al. 2006, section 3: U tokens, U + 1 optional blanks of which R
    must be there), so the loss is T ln(symbols) - ln C(T + U - R, 2U); infinite where no path fits.

    >>> round(uniform_loss([1], 2, 3), 6) == round(2 * math.log(3) - math.log(3), 6)
    True
    """
    length, repeats = len(tokens), sum(a == b for a, b in pairwise(tokens))
    top, chosen = frames + length - repeats, 2 * length
    if chosen > top:
        return math.inf
    ways = math.lgamma(top + 1) - math.lgamma(chosen + 1) - math.lgamma(top - chosen + 1)
    return frames * math.log(symbols) - ways
