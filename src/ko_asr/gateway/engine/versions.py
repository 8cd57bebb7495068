"""Shares of versions, sticky by key: rendezvous hashing with weights, so that nothing needs to be kept.

Each key draws a number for each version; -weight / ln(number) is greatest for a version as often as its
weight says (Schindelhauer and Schomaker 2005). The rest of the order says where to go when that version has
died, and a changed weight moves only as many keys as it must.
"""

import math
from collections.abc import Mapping
from hashlib import blake2b

_STEPS = 1 << 64


def order(key: str, weights: Mapping[str, float]) -> list[str]:
    """The versions in the order in which ``key`` asks them; those of weight 0 come last."""
    return sorted(weights, key=lambda version: (-_score(key, version, weights[version]), version))


def _score(key: str, version: str, weight: float) -> float:
    # Lengths, so that no two pairs of key and version are one text.
    digest = blake2b(f"{len(key)} {key} {version}".encode(), digest_size=8).digest()
    number = (int.from_bytes(digest) + 0.5) / _STEPS
    return -weight / math.log(number) if number < 1 else math.inf
