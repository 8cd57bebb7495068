"""Reasons why audio cannot be used."""


class AudioProblem(Exception):
    """Reason why audio cannot be used. ``said`` is the same as the rest of a sentence about the file."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.said = said or f"cannot be used ({reason})"


class MissingFile(AudioProblem):
    """There is no such file."""


class UnknownFormat(AudioProblem):
    """Not audio that libsndfile reads."""
