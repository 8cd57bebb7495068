"""Frames into a beam, and the best path out of it: a whole recording, or what a stream shares with it."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from ko_asr.runtime.ctc import Token, Vocabulary
from ko_asr.runtime.keywords import Keyword, booster_of
from ko_asr.runtime.prefix_search import BeamOptions, Prefix, PrefixSearch
from ko_asr.runtime.results import Word


def best_tokens(
    ids: np.ndarray,
    log_probs: np.ndarray,
    vocabulary: Vocabulary,
    blank_id: int,
    keywords: Sequence[Keyword],
    options: BeamOptions | None = None,
) -> list[Token]:
    """The tokens of a whole recording, int and float [T, K], best first, by the search of `BeamDecoder`.

    UserError for a keyword that no token spells.
    """
    options = options or BeamOptions()
    booster = booster_of(tuple(keywords), vocabulary) if keywords else None
    search = PrefixSearch(vocabulary, blank_id, options, None, booster)
    for frame, (tokens, scores) in enumerate(likely_tokens(ids, log_probs, blank_id, options)):
        if tokens:
            search.step(frame, tokens, scores)
        else:
            search.silence()
    return path_tokens(search.best_at_end().path(search.root))


def likely_tokens(
    ids: np.ndarray, log_probs: np.ndarray, blank_id: int, options: BeamOptions
) -> Iterator[tuple[list[int], list[float]]]:
    """Of each frame the tokens to try and their scores, best first; none where it holds nothing but blank."""
    width = options.tokens_a_frame
    ids, log_probs = np.asarray(ids)[:, :width], np.asarray(log_probs)[:, :width]
    likely = (log_probs >= log_probs[:, :1] - options.token_threshold).sum(1)
    likely[~np.isfinite(log_probs[:, 0])] = 0  # a frame of NaN holds nothing
    likely[(likely == 1) & (ids[:, 0] == blank_id)] = 0
    for tokens, scores, count in zip(ids.tolist(), log_probs.tolist(), likely.tolist(), strict=True):
        yield tokens[:count], scores[:count]


def path_tokens(path: Sequence[Prefix]) -> list[Token]:
    """Tokens of a path in time order.

    Every prefix knows its own likeliest time. Where that of a prefix has moved on since a longer one began,
    the longer one's time is right for it. Only the next prefix is asked, whose start is as settled as what
    stands before it: what a token's time depends on must not depend on when one asks.
    """
    found: list[Token] = []
    for prefix, following in itertools.zip_longest(path, path[1:]):
        end = min(prefix.end, following.start) if following else prefix.end
        found.append(Token(prefix.token, min(prefix.start, end - 1), end, prefix.log_prob))
    return found


def in_order(found: list[Word]) -> tuple[Word, ...]:
    """The words, none beginning before the one before it has ended: likeliest times may cross by a frame."""
    for index in range(1, len(found)):
        word, first = found[index], found[index - 1].end_ms
        if word.start_ms < first:
            syllables = tuple(
                replace(part, start_ms=max(part.start_ms, first), end_ms=max(part.end_ms, first))
                for part in word.syllables
            )
            found[index] = replace(word, start_ms=first, end_ms=max(word.end_ms, first), syllables=syllables)
    return tuple(found)
