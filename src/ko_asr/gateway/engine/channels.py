"""The channels of one recording, recognised at the same time.

A call centre records its agent on one channel and the customer on another.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from ko_asr.client.offline import Transcription
from ko_asr.gateway.audio.decode import Decoded
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.engine.long_audio import Part, parts
from ko_asr.gateway.engine.recogniser import Recogniser
from ko_asr.gateway.settings.gateway import Settings


class OneOwner:
    """Turns of one request for all of its channels: it gets no more than a request of one channel."""

    def __init__(self, recogniser: Recogniser, settings: Settings) -> None:
        self._recogniser, self._owner = recogniser, object()
        self._room = asyncio.Semaphore(settings.in_flight_each)

    async def transcribe(
        self, samples: np.ndarray, owner: Hashable, caller: Caller, keywords: tuple[str, ...]
    ) -> Transcription:
        """Transcribe like `Recogniser.transcribe`, for an owner that all channels share."""
        async with self._room:
            return await self._recogniser.transcribe(samples, self._owner, caller, keywords)


async def channel_parts(
    audio: Sequence[Decoded],
    recogniser: Recogniser,
    settings: Settings,
    caller: Caller,
    keywords: tuple[str, ...] = (),
    heard: Callable[[Part], None] = lambda _: None,
) -> list[list[Part]]:
    """The parts of every channel, each told to ``heard`` at once. ApiError when one of them fails; the others
    are given up.
    """
    shared = OneOwner(recogniser, settings)

    async def one(channel: Decoded) -> list[Part]:
        # Cut, for one is silent while another speaks.
        found: list[Part] = []
        async for part in parts(channel, shared, settings, caller, keywords, cut=True):
            found.append(part)
            heard(part)
        return found

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(channel)) for channel in audio]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
