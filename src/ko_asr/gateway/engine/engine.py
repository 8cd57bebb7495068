"""What recognises: Triton servers, or the exported graphs in this process. Both keep this contract."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

import numpy as np

from ko_asr.client.offline import Transcription
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result

Served = Callable[[str], None]


def nobody(version: str) -> None:
    """Nobody wants to know the version."""


class LiveStream(Protocol):
    """Live speech: audio goes in, results come out in order, partials and finals.

    The methods raise ServerError when the stream has failed for good.
    """

    async def send(self, samples: np.ndarray) -> None:
        """Take float32 samples [n] in -1..1 at 16 kHz; waits while the recogniser is behind."""

    async def finish(self) -> None:
        """End the audio; the iteration ends with the last result."""

    def __aiter__(self) -> AsyncIterator[Result]:
        """Iterate over the results."""

    async def close(self) -> None:
        """Give up what is not final, and free the place. Closing twice is allowed."""


class Engine(Protocol):
    """A served model. ``key`` names the caller, so that one caller's requests can be kept together."""

    async def transcribe(
        self, samples: np.ndarray, key: str = "", keywords: tuple[str, ...] = ()
    ) -> Transcription:
        """Transcribe float32 [n] at 16 kHz, with words; ``keywords``, 단어 or 단어:점수, are favoured.

        Raises ServerError: RequestRefused for a keyword that is invalid or that the model cannot spell,
        KeywordsNotTaken where the served model takes none.
        """

    async def open_stream(self, options: StreamOptions, key: str = "", served: Served = nobody) -> LiveStream:
        """Begin a stream; ``served`` is told its version of the model, where versions are named, and again
        where it goes on at another one.

        Raises ServerError, StreamsFull when there is no room for it.
        """

    async def close(self) -> None:
        """Close the connections."""
