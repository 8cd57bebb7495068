"""The transcript of a file, whoever recognised it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.paragraphs import paragraphs
from ko_asr.finishing.words import WrittenWord
from ko_asr.runtime.results import Result, Word


@dataclass(frozen=True)
class Transcript:
    """The transcript of a file: finals in order, ``duration`` in seconds.

    ``paragraphs`` are those of the written form, where `finished` was asked for them.
    """

    file: str
    duration: float
    utterances: tuple[Result, ...]
    paragraphs: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole text, words separated by single spaces."""
        return " ".join(word.text for word in self.words)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all utterances, with times in ms from the start of the file and confidence."""
        return tuple(word for result in self.utterances for word in result.words)

    @property
    def written(self) -> str | None:
        """The whole written form; None where there is none (`finished`)."""
        forms = [result.written.text for result in self.utterances if result.written]
        return " ".join(text for text in forms if text) if forms else None

    def finished(self, finisher: Finisher) -> "Transcript":
        """The same transcript with the written form of every utterance, and of the whole in paragraphs."""
        utterances = tuple(replace(result, written=finisher(result.words)) for result in self.utterances)
        divided = _paragraphs(utterances, finisher.options)
        return replace(self, utterances=utterances, paragraphs=divided)


def _paragraphs(utterances: Sequence[Result], options: FinishOptions) -> tuple[str, ...]:
    """The written form of all utterances in paragraphs; none where nobody asked for them."""
    if not options.paragraph_splitter:
        return ()
    words: list[WrittenWord] = []
    sentences: list[int] = []
    for result in utterances:
        if result.written and result.written.words:
            sentences += [len(words) + number for number in result.written.sentences or (0,)]
            words += result.written.words
    begins = paragraphs(words, sentences, options.paragraph_max)
    ends = [*begins[1:], len(words)]
    return tuple(
        " ".join(word.text for word in words[first:end]) for first, end in zip(begins, ends, strict=False)
    )
