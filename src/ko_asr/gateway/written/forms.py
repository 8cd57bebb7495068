"""Utterances with their written forms.

What was said is finished many utterances at a time: a number or a sentence may go on behind a pause. It is
not finished whole, as the time for that grows faster than its length; sections end where utterances do.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ko_asr.finishing.words import Written, WrittenWord
from ko_asr.gateway.engine.heard import Heard, SpokenWord, in_order, joined
from ko_asr.runtime.results import Result, Word

SECTION = 300  # words at least, two minutes of speech


def sections(utterances: Sequence[Result]) -> Iterator[list[Result]]:
    """The utterances of one speaker in groups to be finished together, of which only the last is short."""
    section: list[Result] = []
    for result in utterances:
        section.append(result)
        if is_full(section):
            yield section
            section = []
    if section:
        yield section


def is_full(section: Sequence[Result]) -> bool:
    """True where the next utterance belongs to another section."""
    return sum(len(result.words) for result in section) >= SECTION


def words_of(section: Sequence[Result]) -> list[Word]:
    """The words to be finished together."""
    return [word for result in section for word in result.words]


def divided(form: Written, section: Sequence[Result]) -> Iterator[Result]:
    """The utterances of a section with their shares of its written ``form``.

    A written word belongs to the utterance of its first source, so one whose words are all part of a number
    that began before has an empty form.
    """
    first = begin = 0
    for result in section:
        after, end = first + len(result.words), begin
        while end < len(form.words) and form.words[end].sources[0] < after:
            end += 1
        words = tuple(_renumbered(word, first) for word in form.words[begin:end])
        written = Written(
            " ".join(word.text for word in words),
            words,
            tuple(number - first for number in form.dropped if first <= number < after),
            _within(form.sentences, begin, end),
            _within(form.paragraphs, begin, end),
        )
        yield replace(result, written=written)
        first, begin = after, end


def as_written(result: Result) -> Result:
    """A result that tells its written form as its text and words."""
    form = result.written
    assert form is not None
    words = tuple(_word(word) for word in form.words) if result.words else ()
    start, end = (words[0].start_ms, words[-1].end_ms) if words else (result.start_ms, result.end_ms)
    return replace(result, text=form.text, words=words, start_ms=start, end_ms=end, stable=form.stable or 0)


def _word(word: WrittenWord) -> Word:
    return Word(word.text, word.start_ms or 0, word.end_ms or 0, word.confidence or 0.0)


def _renumbered(word: WrittenWord, first: int) -> WrittenWord:
    return word._replace(sources=tuple(number - first for number in word.sources))


def _within(numbers: Sequence[int], begin: int, end: int) -> tuple[int, ...]:
    return tuple(number - begin for number in numbers if begin <= number < end)


def text_of(utterances: Iterable[Result]) -> str:
    """The written text of utterances."""
    return joined(result.written.text for result in utterances if result.written)


def with_forms(heard: Heard, channels: Sequence[Sequence[Result]], instead: bool) -> Heard:
    """``heard`` with the utterances of its ``channels``, which have forms: beside the text or ``instead``."""
    utterances = in_order(channels)
    written, texts = text_of(one.result for one in utterances), list(map(text_of, channels))
    if not instead:
        named = tuple(replace(one, written=text) for one, text in zip(heard.channels, texts, strict=True))
        return replace(heard, written=written, channels=named, utterances=utterances)
    shown = in_order([[made for made in map(as_written, one) if made.text] for one in channels])
    named = tuple(replace(one, text=text) for one, text in zip(heard.channels, texts, strict=True))
    return replace(heard, text=written, channels=named, utterances=shown)


def written_words(heard: Heard) -> list[SpokenWord]:
    """The words of the written forms of all channels, in the order in which they begin."""
    found = [
        SpokenWord(one.channel, _word(word))
        for one in heard.utterances
        if one.result.written
        for word in one.result.written.words
    ]
    return sorted(found, key=lambda one: one.word.start_ms)
