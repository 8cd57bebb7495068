"""The channels of one recording, recognised at the same time, and what is said on them in order of time.

A call centre records its agent on one channel and the customer on another.
"""

import asyncio
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ko_asr.client.offline import Transcription
from ko_asr.gateway.audio.decode import Decoded
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.engine.long_audio import Part, confidence, joined_text, parts, transcript
from ko_asr.gateway.engine.recogniser import Recogniser
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.runtime.results import Result, Word


@dataclass(frozen=True)
class Utterance:
    """What was said on ``channel``, counted from 0, between two pauses."""

    channel: int
    result: Result


@dataclass(frozen=True)
class SpokenWord:
    """A word and its channel."""

    channel: int
    word: Word


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


def utterances(found: Sequence[Sequence[Part]], seconds: float) -> list[Utterance]:
    """The utterances of all channels, in the order in which they begin."""
    spoken = [
        Utterance(channel, result)
        for channel, heard in enumerate(found)
        for result in transcript(heard, seconds).utterances
    ]
    return sorted(spoken, key=lambda one: one.result.start_ms)


def words(spoken: Sequence[Utterance]) -> list[SpokenWord]:
    """The words of all channels, in the order in which they begin."""
    heard = [SpokenWord(one.channel, word) for one in spoken for word in one.result.words]
    return sorted(heard, key=lambda one: one.word.start_ms)


def text_of(found: Sequence[Sequence[Part]], seconds: float) -> str:
    """The whole text: of several channels the utterances, in order of time."""
    if len(found) == 1:
        return joined_text(found[0])
    return " ".join(one.result.text for one in utterances(found, seconds))


def channels_of(found: Sequence[Sequence[Part]]) -> dict[str, list[dict[str, Any]]]:
    """The text of every channel, as answers tell it."""
    return {
        "channels": [
            {"channel": channel, "text": joined_text(heard), "confidence": round(confidence(heard), 4)}
            for channel, heard in enumerate(found)
        ]
    }
