"""A version that hears a share of the files after they were answered, and is compared: never answered.

Neither text leaves this process, and neither is kept.
"""

import asyncio
import logging
import random

import numpy as np

from ko_asr.client.connection import ServerError
from ko_asr.client.offline import Transcription
from ko_asr.evaluation.metrics import score
from ko_asr.gateway.engine.engine import Engine, LiveStream, Served, nobody
from ko_asr.runtime.options import StreamOptions

LOG = logging.getLogger("ko_asr.gateway")
_WAITING = 64  # pieces, 80 MB of audio at most
_AT_ONCE = 2


class Shadow:
    """An engine that is listened to and not believed."""

    def __init__(self, engine: Engine, share: float) -> None:
        """Begin, in a running loop, to take a ``share`` (0..1) of what is offered."""
        self._engine, self._share = engine, share
        self.compared = self.different = self.failed = self.dropped = 0
        self._errors = 0.0
        self._waiting: asyncio.Queue[tuple[np.ndarray, str, tuple[str, ...]]] = asyncio.Queue(_WAITING)
        self._workers = [asyncio.create_task(self._work()) for _ in range(_AT_ONCE)]

    @property
    def cer(self) -> float:
        """The mean character error rate of its texts against those that were answered."""
        return self._errors / self.compared if self.compared else 0.0

    def offer(self, samples: np.ndarray, text: str, keywords: tuple[str, ...]) -> None:
        """Take a copy of what was answered with ``text``, or leave it: never waits."""
        if random.random() >= self._share:
            return
        try:
            self._waiting.put_nowait((samples, text, keywords))
        except asyncio.QueueFull:
            self.dropped += 1

    async def close(self) -> None:
        """Drop what waits, and close the connections."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.wait(self._workers)
        await self._engine.close()

    async def _work(self) -> None:
        while True:
            samples, text, keywords = await self._waiting.get()
            try:
                found = (await self._engine.transcribe(samples, keywords=keywords)).text
            except ServerError as error:
                self.failed += 1
                LOG.warning("the shadow: %s", type(error).__name__)
                continue
            self._compare(text, found)

    def _compare(self, text: str, found: str) -> None:
        self.compared += 1
        if found != text:
            self.different += 1
            # Against no text at all every character is an error: as many as there are, or one whole text.
            self._errors += score(text, found).cer if text.strip() else 1.0


class ShadowedEngine:
    """``engine``, which answers, and a shadow that hears of it afterwards."""

    def __init__(self, engine: Engine, shadow: Shadow) -> None:
        self._engine, self._shadow = engine, shadow

    async def transcribe(
        self, samples: np.ndarray, key: str = "", keywords: tuple[str, ...] = ()
    ) -> Transcription:
        """Transcribe like `Engine.transcribe`."""
        answer = await self._engine.transcribe(samples, key, keywords)
        self._shadow.offer(samples, answer.text, keywords)
        return answer

    async def open_stream(self, options: StreamOptions, key: str = "", served: Served = nobody) -> LiveStream:
        """Begin a stream like `Engine.open_stream`; the shadow hears none."""
        return await self._engine.open_stream(options, key, served)

    async def close(self) -> None:
        """Close both."""
        await self._shadow.close()
        await self._engine.close()
