"""Subtitles of a transcript: where cues and their lines break, and how long each is shown.

Lengths and times are those of Netflix's Timed Text Style Guide (https://partnerhelp.netflixstudios.com/hc/
en-us/articles/ and a number). Korean, 216001127: 16 characters a line, of which Latin ones, spaces and
punctuation count half, and 12 characters a second. All languages, 215758617: at most two lines, one where it
is enough; 5/6 to 7 seconds; two frames between cues. Timing, 360051554394: a cue begins with its sound and
may last half a second longer where its reader needs that; a gap of up to half a second is closed.

Words (어절) are never split. Among all ways to divide a speaker's words the best is taken, by what each break
and each cue costs: sentences stay whole and begin lines, a number is not parted from what it counts, and
nobody has to read faster than that where another division avoids it. The gateway's page divides alike
(gateway/api/page/static/subtitles.js; tests/recognition/test_cues.py holds the two together).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate
from typing import NamedTuple

from ko_asr.finishing.words import WrittenWord
from ko_asr.recognition.transcript import Transcript
from ko_asr.runtime.results import Result, Word


@dataclass(frozen=True)
class CueRules:
    """Lengths in characters, of which other than Hangul, Hanja and Kana count half; times in ms.

    ``lines`` is 1 or 2. A cue may stay ``linger_ms`` after its sound, and gaps of as long are closed.
    """

    line: float = 16
    lines: int = 2
    characters_per_second: float = 12
    shortest_ms: int = 833
    longest_ms: int = 7000
    gap_ms: int = 83  # two frames of 24 a second
    linger_ms: int = 500


RULES = CueRules()


class Cue(NamedTuple):
    """One subtitle: times in ms and lines of text."""

    start_ms: int
    end_ms: int
    lines: list[str]


class After(IntEnum):
    """What ends with a word, or goes on after it."""

    COUNTED = 0  # a number whose unit follows: 7만 | 원
    PART = 1  # a date or time of which more follows: 3월 | 5일
    WORD = 2
    CLAUSE = 3
    SENTENCE = 4
    UTTERANCE = 5


# What a division costs; only the relations matter. The breaks are those after each of `After`.
_CUE_BREAK = (100.0, 16.0, 8.0, 3.0, 0.0, 0.0)
_LINE_BREAK = (40.0, 6.0, 2.0, 0.0, 0.0, 0.0)
_CUE, _SECOND_LINE, _UNBALANCED = 4.0, 1.0, 2.0
_ENDS_WITHIN_LINE = (0.0, 0.0, 0.0, 0.0, 6.0, 6.0)
_ENDS_WITHIN_CUE = (0.0, 0.0, 0.0, 0.0, 0.0, 4.0)
_SECOND_OF_SILENCE = 4.0  # within a cue
_TOO_SHORT, _TOO_FAST = 8.0, 16.0  # and as much again for no time at all; for twice the speed
_PAUSE_MS = 300  # silence that divides as a comma does
# Numbers in digits and in words. What looks like one (구조) is held to what follows, which does little harm.
_DIGIT = "[일이삼사오육칠팔구]"
_FOUR = f"(?:{_DIGIT}?천)?(?:{_DIGIT}?백)?(?:{_DIGIT}?십)?{_DIGIT}?"
_LARGE = "".join(f"(?:(?=[^{unit}]){_FOUR}{unit})?" for unit in "경조억")
_SINO = f"(?:{_LARGE}(?:{_FOUR}만)?{_FOUR})"
_NATIVE = "(?:열|스물|스무|서른|마흔|쉰|예순|일흔|여든|아흔)?(?:한|두|세|네|다섯|여섯|일곱|여덟|아홉)?"
_DIGITS = r"[-+]?\d[\d,.:]*[만억조경]?"
_NUMBER = f"(?:{_DIGITS}|(?:{_SINO}|[영공])점[영공일이삼사오육칠팔구]+|{_SINO}|{_NATIVE})"
_number = re.compile(_NUMBER).fullmatch
_part = re.compile(f"{_NUMBER}[년월일시분]|오전|오후").fullmatch
_AMBIGUOUS = "일이삼사오육칠팔구만천백십영공"  # alone they are other words as often: 이 사람
_begins_with_number = re.compile(r"[-+]?\d|[일이삼사오육칠팔구십백천만]+[월일시분초]").match
_ends_clause = re.compile("(?:,|고|서|며|면|지만|는데|은데|니까|려고|다가|거나)$").search
_FULL_WIDTH = re.compile("[\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]")


class _Piece(NamedTuple):
    text: str
    start_ms: int
    end_ms: int
    after: After


class _Division(NamedTuple):
    """The best division of the pieces before one: where its last cue begins, and that one's second line."""

    cost: float
    first: int
    second: int


def width(text: str) -> float:
    """The length of ``text`` as the guide counts it.

    >>> width("어제 KTX로"), width("1,200원")
    (5.0, 3.5)
    """
    return (len(text) + len(_FULL_WIDTH.findall(text))) / 2


def cues(transcript: Transcript, labels: Sequence[str] = (), rules: CueRules = RULES) -> list[Cue]:
    """The subtitles of a transcript, of its written form where it has one, in the order of their starts.

    ``labels``, one an utterance, stand before each of its subtitles and tell who speaks.
    """
    spoken_by: dict[str, list[_Piece]] = {}
    labels = labels or [""] * len(transcript.utterances)
    for result, label in zip(transcript.utterances, labels, strict=True):
        spoken_by.setdefault(label, []).extend(_pieces(result))
    found = [
        (group, lines)
        for label, pieces in spoken_by.items()
        for group, lines in _Layout(pieces, label, rules).cues()
    ]
    found.sort(key=lambda pair: pair[0][0].start_ms)  # speakers may interrupt each other
    starts = [group[0].start_ms for group, _ in found]
    starts.append(round(1000 * transcript.duration) + rules.gap_ms)  # behind the last one the audio ends
    return [
        Cue(group[0].start_ms, _end(group, lines, following, rules), lines)
        for (group, lines), following in zip(found, starts[1:], strict=True)
    ]


def _pieces(result: Result) -> Iterator[_Piece]:
    """The words that are shown of an utterance, and what comes after each."""
    words: Sequence[Word | WrittenWord] = result.written.words if result.written else result.words
    begins = set(result.written.sentences) if result.written else set()
    times = [(word.start_ms or 0, word.end_ms or 0) for word in words]
    for k, (word, (start, end)) in enumerate(zip(words, times, strict=True)):
        if k + 1 == len(words):
            after = After.UTTERANCE
        elif k + 1 in begins:
            after = After.SENTENCE
        else:
            after = _after(word.text, words[k + 1].text, times[k + 1][0] - end)
        yield _Piece(word.text, start, end, after)


def _after(text: str, following: str, silence_ms: int) -> After:
    if text.endswith((".", "?", "!", "…")):
        return After.SENTENCE
    if _number(text) or (text in ("점", "대") and (_number(following) or _begins_with_number(following))):
        return After.PART if text in _AMBIGUOUS else After.COUNTED
    if _part(text) and _begins_with_number(following):
        return After.PART
    return After.CLAUSE if _ends_clause(text) or silence_ms >= _PAUSE_MS else After.WORD


class _Layout:
    """The words of one speaker divided into cues and lines."""

    def __init__(self, pieces: Sequence[_Piece], label: str, rules: CueRules) -> None:
        self._pieces, self._rules, self._label = pieces, rules, label
        self._label_width = width(label) + 0.5 if label else 0.0
        self._widths = [0.0, *accumulate(width(piece.text) + 0.5 for piece in pieces)]
        self._in_lines = [0.0, *accumulate(_ENDS_WITHIN_LINE[piece.after] for piece in pieces)]
        self._in_cues = [0.0, *accumulate(map(self._within_cue, range(len(pieces))))]

    def _within_cue(self, k: int) -> float:
        """What it costs that a cue goes on after piece ``k``."""
        if k + 1 == len(self._pieces):
            return 0.0
        silence = self._pieces[k + 1].start_ms - self._pieces[k].end_ms
        return (
            _ENDS_WITHIN_CUE[self._pieces[k].after] + _SECOND_OF_SILENCE * max(0, silence - _PAUSE_MS) / 1000
        )

    def cues(self) -> Iterator[tuple[Sequence[_Piece], list[str]]]:
        """The pieces of each cue and its lines, in order."""
        best = [_Division(0.0, 0, 0)]
        for end in range(1, len(self._pieces) + 1):
            best.append(min(self._divisions(best, end), key=lambda found: found.cost))
        cuts, end = [], len(self._pieces)
        while end:
            cuts.append((best[end].first, best[end].second, end))
            end = best[end].first
        for first, second, end in reversed(cuts):
            texts = [" ".join(piece.text for piece in self._pieces[first:second])]
            if second < end:
                texts.append(" ".join(piece.text for piece in self._pieces[second:end]))
            yield self._pieces[first:end], [f"{self._label} {texts[0]}".lstrip(), *texts[1:]]

    def _divisions(self, best: Sequence[_Division], end: int) -> Iterator[_Division]:
        """Each cue that may end before piece ``end``, behind the best division of what comes before it."""
        for first in range(end - 1, -1, -1):
            lines = self._lines(first, end)
            spoken_ms = self._pieces[end - 1].end_ms - self._pieces[first].start_ms
            if first < end - 1 and (lines is None or spoken_ms > self._rules.longest_ms):
                return  # nor does a longer one fit
            cost, second = lines or (0.0, end)
            cost += best[first].cost + self._cue_cost(first, end)
            yield _Division(cost, first, second)

    def _lines(self, first: int, end: int) -> tuple[float, int] | None:
        """What the best lines cost and where the second one begins, ``end`` for none; None where none fit."""
        options = []
        if self._fits(first, end, self._label_width):
            options.append((self._in_lines[end - 1] - self._in_lines[first], end))
        if self._rules.lines > 1:
            options += [
                (self._two_lines(first, second, end), second)
                for second in range(first + 1, end)
                if self._fits(first, second, self._label_width) and self._fits(second, end)
            ]
        return min(options, default=None)

    def _two_lines(self, first: int, second: int, end: int) -> float:
        ends = (
            self._in_lines[second - 1]
            - self._in_lines[first]
            + self._in_lines[end - 1]
            - self._in_lines[second]
        )
        above, below = self._width(first, second) + self._label_width, self._width(second, end)
        unbalanced = _UNBALANCED * abs(above - below) / max(above, below, 0.5)
        return _SECOND_LINE + _LINE_BREAK[self._pieces[second - 1].after] + ends + unbalanced

    def _width(self, first: int, end: int) -> float:
        return self._widths[end] - self._widths[first] - 0.5

    def _fits(self, first: int, end: int, label: float = 0.0) -> bool:
        return end - first == 1 or label + self._width(first, end) <= self._rules.line

    def _cue_cost(self, first: int, end: int) -> float:
        """What a cue costs beside its lines."""
        rules, start = self._rules, self._pieces[first].start_ms
        latest = max(self._pieces[end - 1].end_ms + rules.linger_ms, start + rules.shortest_ms)
        if end < len(self._pieces):
            latest = min(latest, self._pieces[end].start_ms - rules.gap_ms)
        shown = max(1, latest - start)
        too_fast = self._width(first, end) / (rules.characters_per_second * shown / 1000) - 1
        return (
            _CUE
            + _CUE_BREAK[self._pieces[end - 1].after]
            + self._in_cues[end - 1]
            - self._in_cues[first]
            + (_TOO_SHORT * (2 - shown / rules.shortest_ms) if shown < rules.shortest_ms else 0.0)
            + _TOO_FAST * min(max(0.0, too_fast), 4.0)
        )


def _end(group: Sequence[_Piece], lines: Sequence[str], following: int, rules: CueRules) -> int:
    """When a cue goes, in ms, if the next one comes at ``following``."""
    start, spoken = group[0].start_ms, group[-1].end_ms
    reading = round(1000 * sum(map(width, lines)) / rules.characters_per_second)
    end = max(spoken, start + rules.shortest_ms, min(start + reading, spoken + rules.linger_ms))
    latest = following - rules.gap_ms
    if spoken <= following and latest > start:
        end = latest if latest - end < rules.linger_ms else end
    return max(start + 1, min(end, start + rules.longest_ms))
