"""Failures of a stream on their way to the client: a code and one sentence.

Triton would never show a request that fails in the preprocessor to the steps after it, so the failure
travels to the decoder as a tensor, and the decoder answers with it. A client gets the sentence and one of
Triton's few codes. A server that is full and one that is gone have the same: `is_full` tells them apart.
"""

import re
from dataclasses import dataclass

from ko_asr.errors import UserError

INVALID, FULL, INTERNAL = "INVALID", "FULL", "INTERNAL"
_FULL_SENTENCE = re.compile(r"all \d+ streams of this server are taken; try again later")


@dataclass(frozen=True)
class Failure:
    """The reason why a request cannot be answered; ``code`` is INVALID, FULL or INTERNAL."""

    code: str
    sentence: str


class Failed(Exception):
    """A request that cannot be answered, and the reason."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.sentence)
        self.failure = failure


def dump(failure: Failure | None) -> str:
    """The text of the tensor; empty where nothing failed.

    >>> dump(Failure(INVALID, "a stream is one")), dump(None)
    ('INVALID a stream is one', '')
    """
    return f"{failure.code} {failure.sentence}" if failure else ""


def parse(text: str) -> Failure | None:
    """The failure that `dump` wrote; None where nothing failed. UserError for an unknown code.

    >>> parse("INVALID a stream is one"), parse("")
    (Failure(code='INVALID', sentence='a stream is one'), None)
    """
    if not text:
        return None
    code, _, sentence = text.partition(" ")
    if code not in (INVALID, FULL, INTERNAL):
        raise UserError(f"unknown failure code {code[:20]!r}: one of {INVALID}, {FULL}, {INTERNAL}")
    return Failure(code, sentence)


def no_room(limit: int) -> Failure:
    """The refusal of a server whose ``limit`` places for streams are all taken."""
    return Failure(FULL, f"all {limit} streams of this server are taken; try again later")


def full_sentence(message: str) -> str | None:
    """The sentence of `no_room` within an error message of the server; None where there is none.

    >>> full_sentence("in ensemble 'asr_streaming', all 8 streams of this server are taken; try again later")
    'all 8 streams of this server are taken; try again later'
    """
    found = _FULL_SENTENCE.search(message)
    return found[0] if found else None


def is_full(message: str) -> bool:
    """True when an error message of the server is the refusal of `no_room`."""
    return full_sentence(message) is not None
