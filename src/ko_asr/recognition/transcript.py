"""The transcript of a file, whoever recognised it."""

from dataclasses import dataclass, replace

from ko_asr.finishing.finisher import Finisher
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

    @property
    def written(self) -> str | None:
        """The whole written form; None where there is none (`finished`)."""
        forms = [result.written.text for result in self.utterances if result.written]
        return " ".join(text for text in forms if text) if forms else None

    def finished(self, finisher: Finisher) -> "Transcript":
        """The same transcript with the written form of every utterance."""
        utterances = (replace(result, written=finisher(result.words)) for result in self.utterances)
        return replace(self, utterances=tuple(utterances))
