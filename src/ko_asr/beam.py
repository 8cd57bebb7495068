"""CTC prefix beam search over a stream, with a token n-gram and keywords, in the interface of `results`.

Graves and Jaitly 2014 (the probability of a prefix sums over its alignments), with shallow fusion: a prefix
is worth ln p(acoustic) + alpha ln p(LM) + beta a token + the keywords' bonus. Prefixes form a tree, so a
token's language model and keyword scores are computed once, when the prefix is first reached.

What makes it fast is what is left out: tokens whose log-probability is ``token_threshold`` below the frame's
best are not tried, prefixes ``beam_threshold`` below the best are dropped, and in a frame that holds nothing
but blank no prefix can change. bench/beam.py measures what this costs and gains.

Runs inside the server: numpy, ``ko_asr.ctc``, ``ko_asr.results``, ``ko_asr.boosting``; kenlm where there is a
language model.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ko_asr.boosting import Keyword, KeywordBooster
from ko_asr.ctc import SPACE, Token, Vocabulary
from ko_asr.results import (
    MAX_UTTERANCE,
    SILENCE_WITHOUT_SPEECH,
    Endpoint,
    EndpointRules,
    Result,
    Word,
    silent_end,
    stable_length,
    words,
)

IMPOSSIBLE = -math.inf
_NEGLIGIBLE = 30.0  # nats: exp(-30) adds nothing to a float64 sum that ranks prefixes


class Scorer(Protocol):
    """A language model over tokens (`language_model.LanguageModel`); natural logarithms."""

    def start(self) -> Any: ...
    def score(self, state: Any, token: int) -> tuple[float, Any]: ...
    def end(self, state: Any) -> float: ...


@dataclass(frozen=True)
class BeamOptions:
    """Limits of the search, thresholds in nats; ``alpha`` weighs the language model, ``beta`` each token."""

    beam_size: int = 16
    tokens_a_frame: int = 8
    token_threshold: float = 6.0
    beam_threshold: float = 8.0
    alpha: float = 0.5
    beta: float = 0.0


class Prefix:
    """A token sequence: a node of the prefix tree, with its scores while it is in the beam.

    ``blank`` and ``label`` are the log-probabilities of the alignments that end in blank and in the token,
    ``total`` their sum; ``bonus`` holds everything that is not acoustic. ``speech`` is the first token with
    something to read.
    """

    __slots__ = (
        "blank", "bonus", "children", "end", "keyword_state", "label", "lm_state", "log_prob", "new_blank",
        "new_label", "parent", "seen", "speech", "stamp", "start", "token", "total",
    )  # fmt: skip

    def __init__(self, token: int, parent: "Prefix | None") -> None:
        self.token, self.parent = token, parent
        self.children: dict[int, Prefix] = {}
        self.blank = self.label = self.total = self.new_blank = self.new_label = IMPOSSIBLE
        self.bonus = 0.0
        self.lm_state: Any = None
        self.keyword_state = KeywordBooster.START
        self.speech: Prefix | None = None
        self.start = self.end = 0
        self.log_prob = 0.0
        self.stamp, self.seen = -1, False

    def score(self) -> float:
        return self.total + self.bonus

    def path(self, root: "Prefix") -> list["Prefix"]:
        """The prefixes after ``root`` down to this one."""
        found, node = [], self
        while node is not root:
            found.append(node)
            assert node.parent is not None
            node = node.parent
        return found[::-1]


def log_add(a: float, b: float) -> float:
    """ln(exp(a) + exp(b)).

    >>> log_add(0.0, IMPOSSIBLE), round(log_add(-1.0, -1.0), 4)
    (0.0, -0.3069)
    """
    if a < b:
        a, b = b, a
    return a if b <= a - _NEGLIGIBLE else a + math.log1p(math.exp(b - a))


class PrefixSearch:
    """The beam: best prefixes first in ``beam``, all below ``root``."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        blank_id: int,
        options: BeamOptions,
        language_model: Scorer | None = None,
        booster: KeywordBooster | None = None,
    ) -> None:
        self._blank_id, self._options = blank_id, options
        self._language_model, self._booster = language_model, booster
        self._readable = [bool(piece.replace(SPACE, "")) for piece in vocabulary.pieces]
        self.restart(-1, 0.0, IMPOSSIBLE)

    def restart(self, token: int, blank: float, label: float) -> None:
        """Begin a sentence; ``token`` is what still sounds, with the scores of its two endings."""
        root = Prefix(token, None)
        root.blank, root.label, root.total = blank, label, log_add(blank, label)
        if self._language_model:
            root.lm_state = self._language_model.start()
        self.root, self.beam = root, [root]

    def silence(self) -> None:
        """Any number of frames that hold only blank."""
        for prefix in self.beam:
            prefix.blank, prefix.label = prefix.total, IMPOSSIBLE

    def step(self, frame: int, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
        """One frame: its likely tokens, best first, and their log-probabilities."""
        frame_scores = dict(zip(tokens, log_probs, strict=True))
        blank_score = frame_scores.pop(self._blank_id, IMPOSSIBLE)
        beam = self.beam
        for prefix in beam:
            prefix.stamp = frame
            prefix.new_blank = prefix.total + blank_score
            score = frame_scores.get(prefix.token)
            if score is None:
                prefix.new_label = IMPOSSIBLE
                continue
            prefix.new_label = prefix.label + score
            if score > blank_score and prefix.label > IMPOSSIBLE:
                prefix.end, prefix.log_prob = frame + 1, max(prefix.log_prob, score)
        lowest = beam[0].score() + log_probs[0] - self._options.beam_threshold
        if len(beam) == self._options.beam_size:  # full: a newcomer has to beat the last that stays
            lowest = max(lowest, min(max(p.new_blank, p.new_label) + p.bonus for p in beam))
        reached = beam.copy()
        for token, score in frame_scores.items():
            for prefix in beam:
                mass = (prefix.blank if token == prefix.token else prefix.total) + score
                if mass + prefix.bonus > lowest:
                    self._reach(prefix, token, score, mass, frame, reached)
        self._prune(reached)

    def _reach(
        self, prefix: Prefix, token: int, score: float, mass: float, frame: int, reached: list[Prefix]
    ) -> None:
        """Add ``mass`` to the prefix that ``token`` makes of ``prefix``."""
        child = prefix.children.get(token)
        if child is None:
            child = self._grow(prefix, token)
        if child.stamp != frame:
            child.stamp = frame
            child.new_blank = child.new_label = IMPOSSIBLE
            reached.append(child)
        if mass > child.new_label:  # the likelier alignment tells when the token sounds
            child.start, child.end, child.log_prob = frame, frame + 1, score
        child.new_label = log_add(child.new_label, mass)

    def _grow(self, prefix: Prefix, token: int) -> Prefix:
        child = prefix.children[token] = Prefix(token, prefix)
        bonus = prefix.bonus + self._options.beta
        if self._language_model:
            score, child.lm_state = self._language_model.score(prefix.lm_state, token)
            bonus += self._options.alpha * score
        if self._booster:
            child.keyword_state, gained = self._booster.step(prefix.keyword_state, token)
            bonus += gained
        child.bonus = bonus
        child.speech = prefix.speech or (child if self._readable[token] else None)
        return child

    def _prune(self, reached: list[Prefix]) -> None:
        for prefix in reached:
            prefix.blank, prefix.label = prefix.new_blank, prefix.new_label
            prefix.total = log_add(prefix.blank, prefix.label)
        reached.sort(key=Prefix.score, reverse=True)
        lowest = reached[0].score() - self._options.beam_threshold
        self.beam = [prefix for prefix in reached[: self._options.beam_size] if prefix.score() >= lowest]

    def best_at_end(self) -> Prefix:
        """The best prefix if the sentence ends here."""

        def score(prefix: Prefix) -> float:
            total = prefix.score()
            if self._language_model:
                total += self._options.alpha * self._language_model.end(prefix.lm_state)
            return total + (self._booster.end(prefix.keyword_state) if self._booster else 0.0)

        return max(self.beam, key=score)

    def settled(self, known: Prefix) -> Prefix:
        """The longest prefix that all of the beam begin with, as they do with ``known``; it never changes."""
        common = self.beam[0].path(known)
        for prefix in self.beam[1:]:
            path = prefix.path(known)
            length = next(
                (k for k, (a, b) in enumerate(zip(common, path, strict=False)) if a is not b), len(path)
            )
            common = common[:length]
        return common[-1] if common else known

    def cut(self, root: Prefix) -> None:
        """Go on below ``root``, a prefix in the tree; prefixes that do not begin with it are dropped."""
        kept, paths = [], []
        for prefix in self.beam:
            node: Prefix | None = prefix
            while node is not None and node is not root and node is not self.root:
                node = node.parent
            if node is root:
                kept.append(prefix)
                paths.append(prefix.path(root))
        root.parent, root.speech, root.children = None, None, {}
        for path in paths:
            above = root
            for node in path:
                above.children[node.token] = node
                node.speech = above.speech or (node if self._readable[node.token] else None)
                above = node
        self.root, self.beam = root, kept


class BeamDecoder:
    """Beam search in the place of `results.GreedyDecoder`: the same results, end-points and counts.

    What is final and where it ends depends on the frames alone, never on how they are divided into calls.
    ``accept`` wants the ``options.tokens_a_frame`` best tokens of a frame or more; fewer narrow the search.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        blank_id: int,
        frame_ms: float,
        endpointing: EndpointRules | None = None,
        offset_ms: float = 0.0,
        language_model: Scorer | None = None,
        keywords: Sequence[Keyword] = (),
        options: BeamOptions | None = None,
    ) -> None:
        self.vocabulary, self.blank_id, self.frame_ms = vocabulary, blank_id, frame_ms
        self.endpointing, self.offset_ms = endpointing, offset_ms
        self.options = options or BeamOptions()
        self.partials = self.revised = 0
        booster = KeywordBooster(keywords, vocabulary) if keywords else None
        self._search = PrefixSearch(vocabulary, blank_id, self.options, language_model, booster)
        self._frame = self._index = 0
        self._told_silence = False
        self._begin(0)

    def _begin(self, origin: int) -> None:
        self._origin, self._shown = origin, ""
        self._told: Prefix | None = None  # the best prefix of the last partial
        self._settled = self._search.root
        self._text, self._words = "", list[Word]()  # of settled words
        self._tail: list[Token] = []  # settled tokens after them

    def accept(self, ids: np.ndarray, log_probs: np.ndarray) -> list[Result]:
        """Take the next frames, int [T, K] and float [T, K], best token first.

        Returns finals, and last a partial when the text has changed.
        """
        width = self.options.tokens_a_frame
        ids, log_probs = np.asarray(ids)[:, :width], np.asarray(log_probs)[:, :width]
        likely = (log_probs >= log_probs[:, :1] - self.options.token_threshold).sum(1)
        likely[~np.isfinite(log_probs[:, 0])] = 0  # a frame of NaN says nothing
        results: list[Result] = []
        for tokens, scores, count in zip(ids.tolist(), log_probs.tolist(), likely.tolist(), strict=True):
            if not count or (count == 1 and tokens[0] == self.blank_id):
                self._search.silence()
            else:
                self._search.step(self._frame, tokens[:count], scores[:count])
                results += self._at_word()
            self._frame += 1
            results += self._at_silence()
        return results + self._partial()

    def finish(self) -> list[Result]:
        """The final of what no end-point has ended, if there is anything or if there was no result at all."""
        best = self._search.best_at_end()
        results = self._close(best, None, self._frame) if best.speech or not self._index else []
        self._search.restart(-1, 0.0, IMPOSSIBLE)  # a file goes on behind a pause
        self._begin(self._frame)
        return results

    def _due(self) -> Endpoint | None:
        best = self._search.beam[0]
        if self.endpointing is None:
            return None
        first, last = (best.speech.start, best.end) if best.speech else (None, None)
        return self.endpointing.due(self.frame_ms, self._origin, first, last)

    def _at_silence(self) -> list[Result]:
        due = self._due()
        if (
            due is None
            or due.frame > self._frame
            or (due.rule == SILENCE_WITHOUT_SPEECH and self._told_silence)
        ):
            return []
        best = self._search.best_at_end()
        results = self._close(best, due.rule, due.frame)
        if due.rule == MAX_UTTERANCE:  # its last token may sound on, and is not to be heard twice
            self._search.restart(best.token, best.blank, best.label)
        else:
            self._search.restart(-1, 0.0, IMPOSSIBLE)
        self._begin(due.frame)
        return results

    def _at_word(self) -> list[Result]:
        """End an utterance that is nearly too long before the word that the best prefix has just begun."""
        best = self._search.beam[0]
        if self.endpointing is None or best.seen or best is self._search.root:
            return []
        best.seen = True
        before = best.parent
        if before is None or before.speech is None or not self.vocabulary.begins_word(best.token):
            return []
        if not self.endpointing.ends_before_word(self.frame_ms, before.speech.start, best.start):
            return []
        results = self._close(before, MAX_UTTERANCE, best.start)
        self._search.cut(before)
        self._begin(best.start)
        return results

    def _close(self, prefix: Prefix, rule: str | None, frame: int) -> list[Result]:
        text, found = self._spell(prefix)
        self.revised += not text.startswith(self._shown)
        result = self._result(text, found, frame, is_final=True, stable=len(text), endpoint=rule)
        self._index += 1
        self._told_silence = rule == SILENCE_WITHOUT_SPEECH
        return [result]

    def _partial(self) -> list[Result]:
        best = self._search.beam[0]
        if best is self._told:
            return []
        self._told = best
        stable = self._settle()
        text, found = self._spell(best)
        if text == self._shown:
            return []
        self.partials += 1
        self.revised += not text.startswith(self._shown)
        self._shown = text
        return [self._result(text, found, self._frame, is_final=False, stable=min(stable, len(text)))]

    def _settle(self) -> int:
        """Take in what the whole beam agrees on; returns how many characters of the text can never change."""
        common = self._search.settled(self._settled)
        text = self._text + self._read([*self._tail, *_tokens(common.path(self._settled))])
        if common is not self._settled:
            self._take(common)
        return stable_length(text, self.vocabulary.rule)

    def _take(self, prefix: Prefix) -> None:
        """Keep the tokens above ``prefix`` as words and text, and forget the branches that left them."""
        path = prefix.path(self._settled)
        for token in _tokens(path)[:-1]:
            if self.vocabulary.begins_word(token.id) and (settled := self._tail_words(self._tail)):
                self._words += settled
                self._text += self._read(self._tail)
                self._tail = silent_end(self._tail, self.vocabulary)
            self._tail.append(token)
        for above, below in itertools.pairwise([self._settled, *path]):
            above.children = {below.token: below}
        assert prefix.parent is not None
        self._settled = prefix.parent

    def _spell(self, prefix: Prefix) -> tuple[str, tuple[Word, ...]]:
        tokens = [*self._tail, *_tokens(prefix.path(self._settled))]
        return self._text + self._read(tokens), _in_order([*self._words, *self._tail_words(tokens)])

    def _read(self, tokens: Sequence[Token]) -> str:
        return self.vocabulary.text((token.id for token in tokens), not self._text)

    def _tail_words(self, tokens: Sequence[Token]) -> list[Word]:
        return words(tokens, self.vocabulary, self.frame_ms, self.offset_ms, not self._text)

    def _result(self, text: str, found: tuple[Word, ...], frame: int, **rest: Any) -> Result:
        start = found[0].start_ms if found else max(0, round(self._origin * self.frame_ms + self.offset_ms))
        end = found[-1].end_ms if found else max(0, round(frame * self.frame_ms + self.offset_ms))
        return Result(text, start_ms=start, end_ms=end, words=found, utterance=self._index, **rest)


def _in_order(found: list[Word]) -> tuple[Word, ...]:
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


def _tokens(path: Sequence[Prefix]) -> list[Token]:
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
