"""The written form of live speech: partials by rules alone, finals by everything that was asked for.

A word is committed when nothing that may still be said can change how it is written: some words stand behind
it, it is not within a run of words that could be one longer number, and no written word spans its end. What
is committed is finished once, so a partial costs what its last few words cost. Behind it, words are shown as
they would be written if the utterance ended there, but for the run at the very end, which is shown as spoken
until it has ended: an unfinished number is another one with almost every word.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.rule_book import rule_book
from ko_asr.finishing.words import SpokenWord, Written, WrittenWord

_AHEAD = 3  # words that the rules may look ahead; tests/finishing/test_live.py holds them to it
_BEFORE = 3  # words that they may look back on
_WORD = re.compile(r"[^\s(),:~]+")  # of a term, or of an entry of a list of profanity
_BETWEEN = "점|닷|다시|대시|하이픈|언더바|골뱅이|앳"  # words within a code or an address


class LiveFinisher:
    """The written form of one stream's results. Not thread-safe."""

    def __init__(self, options: FinishOptions) -> None:
        """UserError for a style or a term that cannot be."""
        # The rest reads whole sentences, and pauses, which may not have ended yet.
        rules = replace(
            options, disfluency_filter=False, spacing=False, punctuation=False, paragraph_splitter=False
        )
        self._everything, self._rules = Finisher(options), Finisher(rules)
        self._promises = not (options.disfluency_filter or options.spacing or options.punctuation)
        phrases = [
            _WORD.findall(one) for one in (*options.terms, *options.terms.values(), *options.profanity)
        ]
        longest = max(map(len, phrases), default=0)
        self._ahead, self._before = max(_AHEAD, longest), max(_BEFORE, longest)
        self._in_terms = tuple({word for phrase in phrases if len(phrase) > 1 for word in phrase})
        self._in_numbers = re.compile("|".join([*rule_book()["kinds"].values(), _BETWEEN])).match
        self._begin()

    def _begin(self) -> None:
        # Numbers of spoken words: what begins at one is finished without what lies before it.
        self._boundaries = [0]
        self._committed: list[WrittenWord] = []  # what lies before the last boundary, and its text
        self._text = ""
        self._dropped: list[int] = []
        self._seen: Sequence[SpokenWord] = ()
        self._made: Sequence[WrittenWord] = ()

    def final(self, spoken: Sequence[SpokenWord]) -> Written:
        """The written form of an utterance that has ended; the next words are those of another one."""
        self._begin()
        return self._everything(spoken)

    def partial(self, spoken: Sequence[SpokenWord], settled: int) -> Written:
        """The written form of all words of an utterance so far, the first ``settled`` of which stay.

        Its first ``stable`` characters begin every later partial, and the final.
        """
        ended = self._run(spoken, len(spoken) - 1)
        made = self._finished(spoken[self._boundaries[0] : ended])
        self._commit(made, self._boundary(spoken, made, min(settled, ended) - self._ahead))
        tail = [word for word in made if word.sources[0] >= self._boundaries[-1]]
        tail += [_as_spoken(number, spoken[number]) for number in range(ended, len(spoken))]
        return Written(
            self._joined(tail),
            (*self._committed, *tail),
            (*self._dropped, *_missing(tail, self._boundaries[-1], len(spoken))),
            stable=len(self._text) if self._promises else 0,
        )

    def _may_be_part(self, word: str) -> bool:
        """True for a word that could be one of several that are written together."""
        return self._in_numbers(word) is not None or word.startswith(self._in_terms)

    def _run(self, spoken: Sequence[SpokenWord], end: int) -> int:
        """Where the words before ``end`` that could be parts of one number begin."""
        first = self._boundaries[-1]
        while end > first and self._may_be_part(spoken[end - 1].text):
            end -= 1
        return max(end, first)

    def _finished(self, spoken: Sequence[SpokenWord]) -> list[WrittenWord]:
        """The written words from the last boundary on, of these, which begin at the first one."""
        if spoken != self._seen:
            self._seen, self._made = spoken, _numbered(self._rules, spoken, self._boundaries[0])
        return [word for word in self._made if word.sources[0] >= self._boundaries[-1]]

    def _boundary(self, spoken: Sequence[SpokenWord], made: Sequence[WrittenWord], most: int) -> int:
        """The last spoken word, at most number ``most``, that goes on with no written word and no run."""
        within = {number for word in made for number in word.sources[1:]}
        at = most
        while at > self._boundaries[-1]:
            if at not in within and not (
                self._may_be_part(spoken[at].text) and self._may_be_part(spoken[at - 1].text)
            ):
                return at
            at -= 1
        return self._boundaries[-1]

    def _commit(self, made: Sequence[WrittenWord], until: int) -> None:
        if until == self._boundaries[-1]:
            return
        words = [word for word in made if word.sources[-1] < until]
        self._dropped += _missing(words, self._boundaries[-1], until)
        self._text = self._joined(words)
        self._committed += words
        self._boundaries.append(until)
        while self._boundaries[1] <= until - self._before:
            del self._boundaries[0]

    def _joined(self, words: Sequence[WrittenWord]) -> str:
        """The text of what is committed, and of ``words`` behind it."""
        texts = [word.text for word in words]
        return " ".join([self._text, *texts] if self._text else texts)


def _numbered(finisher: Finisher, spoken: Sequence[SpokenWord], first: int) -> Sequence[WrittenWord]:
    """The written words of ``spoken``, whose first one is word ``first`` of its utterance."""
    words = finisher(spoken).words
    if not first:
        return words
    return [word._replace(sources=tuple([first + number for number in word.sources])) for word in words]


def _as_spoken(number: int, word: SpokenWord) -> WrittenWord:
    return WrittenWord(word.text, (number,), word.start_ms, word.end_ms, word.confidence)


def _missing(words: Sequence[WrittenWord], first: int, until: int) -> list[int]:
    """The spoken words from ``first`` to ``until``, exclusive, of which none of ``words`` was made."""
    there = {number for word in words for number in word.sources}
    return [number for number in range(first, until) if number not in there]
