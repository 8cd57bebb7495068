"""The exported graphs of a repository as an engine."""

import asyncio
import os
from collections.abc import Callable, Sequence

import numpy as np

from ko_asr.client.connection import AnswerTimeout, RequestRefused
from ko_asr.client.offline import Transcription
from ko_asr.gateway.engine.embedded.files import Files
from ko_asr.gateway.engine.embedded.models import (
    Recordings,
    check_runtime,
    load_recordings,
    load_streams,
)
from ko_asr.gateway.engine.embedded.streams import Streams
from ko_asr.gateway.engine.engine import LiveStream, Served, nobody
from ko_asr.gateway.settings.engine import EngineSettings
from ko_asr.recognition.streaming import StreamingRecognizer
from ko_asr.runtime.options import StreamOptions

_MAX_BATCH = 32  # streams of a step


class EmbeddedEngine:
    """Both models of a repository, each with threads of its own."""

    def __init__(
        self,
        recordings: Recordings,
        recognizers: Sequence[StreamingRecognizer],
        settings: EngineSettings,
        timeout: float,
    ) -> None:
        self._timeout = timeout
        self._files = Files(recordings, _threads(settings))
        self._streams = Streams(recognizers, settings.max_streams) if recognizers else None

    @property
    def open_streams(self) -> int:
        """Live streams that have a place."""
        return self._streams.open_now if self._streams else 0

    async def transcribe(
        self, samples: np.ndarray, key: str = "", keywords: tuple[str, ...] = ()
    ) -> Transcription:
        """Transcribe like `Engine.transcribe`."""
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.wrap_future(self._files.submit(samples, keywords))
        except TimeoutError:
            late = f"no answer within {self._timeout:g} s"
            raise AnswerTimeout("DEADLINE_EXCEEDED", late) from None

    async def open_stream(self, options: StreamOptions, key: str = "", served: Served = nobody) -> LiveStream:
        """Begin a stream like `Engine.open_stream`."""
        if self._streams is None:
            sentence = "the repository of this gateway holds no streaming model"
            raise RequestRefused("INVALID_ARGUMENT", sentence)
        return self._streams.open(options)

    async def close(self) -> None:
        """End the threads."""
        await asyncio.to_thread(self._files.close)
        if self._streams is not None:
            await asyncio.to_thread(self._streams.close)


def load(settings: EngineSettings, timeout: float) -> Callable[[], EmbeddedEngine]:
    """Load the models; the engine's threads begin with what is returned. UserError when they are unfit."""
    check_runtime()
    recordings = load_recordings(settings.repository)
    recognizers = load_streams(settings.repository, _MAX_BATCH, _threads(settings))
    return lambda: EmbeddedEngine(recordings, recognizers, settings, timeout)


def _threads(settings: EngineSettings) -> int:
    return settings.threads or os.cpu_count() or 1
