"""The transcript of a file, whoever recognised it."""

from collections.abc import Sequence
from dataclasses import dataclass

from ko_asr.finishing.paragraphs import paragraphs
from ko_asr.finishing.words import WrittenWord
from ko_asr.runtime.results import Result, Word


@dataclass(frozen=True)
class Transcript:
    """The transcript of a file: finals in order, ``duration`` in seconds.

    ``paragraphs`` are those of the written form, where these were asked for.
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
        """The whole written form; None where it was not asked for."""
        forms = [result.written.text for result in self.utterances if result.written]
        return " ".join(text for text in forms if text) if forms else None


def paragraphs_of(utterances: Sequence[Result], most: int) -> tuple[str, ...]:
    """Return the written form of all utterances in paragraphs of about ``most`` words."""
    words: list[WrittenWord] = []
    sentences: list[int] = []
    for result in utterances:
        if result.written and result.written.words:
            sentences += [len(words) + number for number in result.written.sentences or (0,)]
            words += result.written.words
    begins = paragraphs(words, sentences, most)
    ends = [*begins[1:], len(words)]
    return tuple(
        " ".join(word.text for word in words[first:end]) for first, end in zip(begins, ends, strict=False)
    )
