"""The transcript of a file, whoever recognised it."""

from dataclasses import dataclass

from ko_asr.runtime.results import Result, Word


@dataclass(frozen=True)
class Transcript:
    """The transcript of a file: finals in order, ``duration`` in seconds."""

    file: str
    duration: float
    utterances: tuple[Result, ...]

    @property
    def text(self) -> str:
        """The whole text, words separated by single spaces."""
        return " ".join(word.text for word in self.words)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all utterances, with times in ms from the start of the file and confidence."""
        return tuple(word for result in self.utterances for word in result.words)
