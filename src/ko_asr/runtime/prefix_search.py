"""The prefix beam itself: prefixes, their scores and the tree they form."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ko_asr.runtime.ctc import SPACE, Vocabulary
from ko_asr.runtime.keywords import KeywordBooster

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
    """The sum of two probabilities given as logarithms: ln(exp(a) + exp(b)).

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
        """Take any number of frames that hold only blank."""
        for prefix in self.beam:
            prefix.blank, prefix.label = prefix.total, IMPOSSIBLE

    def step(self, frame: int, tokens: Sequence[int], log_probs: Sequence[float]) -> None:
        """Take one frame: its likely tokens, best first, and their log-probabilities."""
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
        if mass > child.new_label:  # the likelier alignment gives the time of the token
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
