"""The silence around the words of a draft, and how long they last."""

from collections.abc import Sequence
from typing import NamedTuple

from ko_asr.finishing.draft import Draft

ENDLESS = 1 << 30  # ms: what is before the first word and behind the last


class Sound(NamedTuple):
    """When a word begins and ends, in ms."""

    start: int
    end: int


def sounds(draft: Draft) -> list[Sound] | None:
    """When each word of ``draft.text`` is spoken; None where the spoken words have no times."""
    if draft.timed is None:
        return None
    timed = draft.timed
    return [Sound(timed[of[0]].start_ms, timed[of[-1]].end_ms) for _, _, _, of in draft.output_words()]


def pause(words: Sequence[Sound], before: int | None, after: int | None) -> int:
    """The silence between two words by their numbers, in ms; None is the start or end of the utterance."""
    if before is None or after is None:
        return ENDLESS
    return words[after].start - words[before].end


def silence_behind(draft: Draft, number: int) -> int | None:
    """The silence behind a word that is not the last, in ms; None where words have no times."""
    if draft.timed is None:
        return None
    words = draft.output_words()
    return draft.timed[words[number + 1][3][0]].start_ms - draft.timed[words[number][3][-1]].end_ms
