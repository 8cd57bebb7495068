"""Reasons why audio cannot be used."""


class AudioProblem(Exception):
    """Reason why audio cannot be used. ``said`` is the same as the rest of a sentence about the file."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.said = said or f"cannot be used ({reason})"


class MissingFile(AudioProblem):
    """There is no such file."""


class UnknownFormat(AudioProblem):
    """Not audio that libsndfile reads; ``kind`` names the format where its first bytes tell, or is empty."""

    def __init__(self, reason: str, said: str, kind: str) -> None:
        super().__init__(reason, said)
        self.kind = kind
