"""Paragraphs: sentences that belong together, by the silence between them and a soft maximum of words."""

from collections.abc import Sequence
from itertools import pairwise

from ko_asr.finishing.words import WrittenWord

_PAUSE_MS = 1200  # behind a sentence: a new thought; speakers breathe in 300 to 700 ms
_LEAST = 10  # words that a pause makes a paragraph of


def paragraphs(words: Sequence[WrittenWord], sentences: Sequence[int], most: int) -> tuple[int, ...]:
    """The numbers of the words that begin a paragraph, of the words that begin a ``sentences``.

    A paragraph ends at a long pause, or where the next sentence would take it past ``most`` words; a sentence
    of more words than that stays whole.
    """
    if not words:
        return ()
    begins = [0]
    for sentence, after in pairwise([*sentences, len(words)]):
        if sentence == 0:
            continue
        length = sentence - begins[-1]
        pause = length >= min(_LEAST, most) and _silence(words, sentence) >= _PAUSE_MS
        if pause or after - begins[-1] > most:
            begins.append(sentence)
    return tuple(begins)


def _silence(words: Sequence[WrittenWord], number: int) -> int:
    """The silence in front of a word in ms; 0 where words have no times."""
    start, end = words[number].start_ms, words[number - 1].end_ms
    return 0 if start is None or end is None else start - end
