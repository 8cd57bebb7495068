"""Keyword boosting for Hangul, whatever the tokens are: jamo, syllables or sub-words.

Keywords are matched letter by letter (conjoining jamo) as tokens spell them, so every token sequence that
spells a word counts, across token borders too. A match may begin inside a word (삼성 in 신삼성) and be
followed by a particle (삼성이), but not end inside a syllable: 철수 is no match in 철순. A keyword of several
words matches with its spaces and without any.

The part of a keyword that has been spelled earns its share of the bonus at once, which keeps it in the beam,
and gives it back when it goes on differently. Negative scores count at the end of the word only.
Runs inside the server, where what keywords compile to is made while every other stream waits: so there are
limits, and streams with the same keywords share it (`booster_of`).
"""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ko_asr.errors import UserError
from ko_asr.runtime import hangul
from ko_asr.runtime.ctc import SPACE, Vocabulary

MOST_KEYWORDS, LOWEST_SCORE, HIGHEST_SCORE = 100, -5.0, 5.0  # RTZR's limits
MOST_LETTERS = 100
# Of all keywords together. To compile 1,000 characters takes 6 ms, with spaces 8; 10,000 took 74 ms, and 234
# with a vocabulary of 5,000 tokens, in which no stream was answered.
MOST_LETTERS_TOGETHER = 1000
DEFAULT_SCORE = 3.0
NATS_PER_SYLLABLE = 1.0  # bonus of one point of score
_BREAK = "\0"  # spelled by what no keyword can hold
_SHARED = 16  # boosters that are kept
_MOST_STEPS = 1 << 14  # that a booster remembers: 3 MB
_MOST_RAW = 4 * MOST_LETTERS  # characters before NFC, whose time grows with their square

_CONJOINING = str.maketrans(
    hangul.COMPAT_CODAS + hangul.COMPAT_NUCLEI + hangul.COMPAT_ONSETS,
    hangul.CODAS + hangul.NUCLEI + hangul.ONSETS,
)


@dataclass(frozen=True)
class Keyword:
    """A word (NFC) and its score, -5 to 5."""

    text: str
    score: float = DEFAULT_SCORE


def parse_keywords(items: Iterable[str]) -> list[Keyword]:
    """Read keywords written as 단어 or 단어:점수. UserError for an invalid one, or too many.

    >>> parse_keywords(["철수:2.5", "서울 시청"])
    [Keyword(text='철수', score=2.5), Keyword(text='서울 시청', score=3.0)]
    """
    items = list(items)
    if len(items) > MOST_KEYWORDS:
        raise UserError(f"{len(items)} keywords are too many: give at most {MOST_KEYWORDS}")
    found: dict[str, Keyword] = {}
    for item in items:
        shown = item if len(item) <= 40 else f"{item[:40]}..."
        if len(item) > _MOST_RAW:
            raise UserError(f"keyword '{shown}' has more than {MOST_LETTERS} characters")
        word, colon, points = item.rpartition(":")
        text = " ".join(unicodedata.normalize("NFC", word if colon else item).split())
        try:
            score = float(points) if colon else DEFAULT_SCORE
        except ValueError:
            raise UserError(f"'{shown}' is no keyword: write 단어 or 단어:점수, such as 철수:3") from None
        if not LOWEST_SCORE <= score <= HIGHEST_SCORE:
            raise UserError(
                f"the score of keyword '{shown}' is not between {LOWEST_SCORE:g} and {HIGHEST_SCORE:g}"
            )
        if not text or len(text) > MOST_LETTERS:
            raise UserError(f"keyword '{shown}' has no text or more than {MOST_LETTERS} characters")
        if any(unicodedata.category(char) == "Cc" for char in text):
            raise UserError(f"keyword {text[:40]!a} holds a control character: write letters only")
        found[text] = Keyword(text, score)
    if (together := sum(map(len, found))) > MOST_LETTERS_TOGETHER:
        raise UserError(
            f"the keywords have {together} characters together: give at most {MOST_LETTERS_TOGETHER}"
        )
    return list(found.values())


def letters(text: str) -> str:
    """The form in which keywords and tokens are compared: Hangul as conjoining jamo.

    >>> letters("ㅋ") == letters("크")[0], len(letters("값"))
    (True, 3)
    """
    return hangul.decompose(text).translate(_CONJOINING)


def _spelled(vocabulary: Vocabulary, token: int) -> str:
    if token in vocabulary.silent:
        return ""
    if token == vocabulary.unknown_id:
        return _BREAK
    return letters(vocabulary.pieces[token].replace(SPACE, " "))


class Spelling:
    """What each token of a vocabulary spells, letter by letter."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = [_spelled(vocabulary, token) for token in range(len(vocabulary.pieces))]
        self._alone = frozenset(text for text in self.tokens if len(text) == 1)
        self._within = frozenset(  # a character has at most three letters
            text[at : at + size]
            for text in self.tokens
            for size in (1, 2, 3)
            for at in range(len(text) - size + 1)
        )

    def check(self, keywords: Iterable[Keyword]) -> None:
        """Raise UserError for a character of a keyword that is in no token, nor all of its letters tokens."""
        for keyword in keywords:
            if unknown := [char for char in dict.fromkeys(keyword.text) if not self._has(char)]:
                raise UserError(
                    f"this model has no tokens for {' '.join(unknown)} of keyword '{keyword.text}' and "
                    "cannot hear it: write it in letters of its vocabulary, Hangul as it is spoken"
                )

    def _has(self, char: str) -> bool:
        return char.isspace() or letters(char) in self._within or self._alone.issuperset(letters(char))


@lru_cache(maxsize=4)
def spelling_of(vocabulary: Vocabulary) -> Spelling:
    """The spelling of ``vocabulary``, made once: 5,000 tokens take 70 ms."""
    return Spelling(vocabulary)


@lru_cache(maxsize=_SHARED)
def booster_of(keywords: tuple[Keyword, ...], vocabulary: Vocabulary) -> "KeywordBooster":
    """The booster of ``keywords``, which streams share. UserError as `KeywordBooster`."""
    return KeywordBooster(keywords, vocabulary)


class KeywordBooster:
    """An Aho-Corasick automaton over letters, walked token by token; states are integers, 0 the start.

    UserError names the first keyword that the tokens cannot spell, which would never be heard.
    """

    START = 0

    def __init__(self, keywords: Sequence[Keyword], vocabulary: Vocabulary) -> None:
        spelling = spelling_of(vocabulary)
        spelling.check(keywords)
        self._spelled = spelling.tokens
        self._next: list[dict[str, int]] = [{}]
        self._fail, self._credit, self._complete = [0], [0.0], [0.0]
        self._open = [False]  # whether a coda could follow and make it another syllable
        for keyword in keywords:
            weight = keyword.score * NATS_PER_SYLLABLE * sum(not c.isspace() for c in keyword.text)
            for form in {keyword.text, keyword.text.replace(" ", "")}:
                self._insert(letters(form), weight)
        self._link()
        self._steps: dict[tuple[int, int], tuple[int, float]] = {}

    def _insert(self, spelling: str, weight: float) -> None:
        state = 0
        for position, letter in enumerate(spelling, 1):
            after = self._next[state].get(letter)
            if after is None:
                after = self._next[state][letter] = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self._credit.append(0.0)
                self._complete.append(0.0)
                self._open.append(letter in hangul.NUCLEI)
            state = after
            self._credit[state] = max(self._credit[state], weight * position / len(spelling))
        self._complete[state] = weight

    def _link(self) -> None:
        """Failure links, breadth first; a state also completes what its suffixes complete."""
        order = list(self._next[0].values())
        for state in order:  # which grows
            fail = self._fail[state]
            for letter, child in self._next[state].items():
                self._fail[child] = self._goto(fail, letter)
                order.append(child)
            self._complete[state] += self._complete[fail]

    def _goto(self, state: int, letter: str) -> int:
        while state and letter not in self._next[state]:
            state = self._fail[state]
        return self._next[state].get(letter, 0)

    def step(self, state: int, token: int) -> tuple[int, float]:
        """The state after ``token`` and what it adds to the bonus, in nats."""
        key = (state, token)
        found = self._steps.get(key)
        if found is None:
            if len(self._steps) >= _MOST_STEPS:
                self._steps.clear()
            found = self._steps[key] = self._walk(state, self._spelled[token])
        return found

    def _walk(self, state: int, spelled: str) -> tuple[int, float]:
        gained = 0.0
        for letter in spelled:
            if not (self._open[state] and letter in hangul.CODAS):
                gained += self._complete[state]
            after = self._goto(state, letter)
            gained += self._credit[after] - self._credit[state]
            state = after
        return state, gained

    def end(self, state: int) -> float:
        """The bonus at the end of the utterance: a whole keyword is earned, a begun one given back."""
        return self._complete[state] - self._credit[state]
