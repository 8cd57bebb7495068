"""One Triton server as an engine: the ensembles ``asr`` and ``asr_streaming`` over gRPC."""

import numpy as np

from ko_asr.client.offline import AsyncAsrClient, Transcription
from ko_asr.client.streaming import AsyncStreamingClient
from ko_asr.gateway.engine.engine import LiveStream
from ko_asr.runtime.options import StreamOptions


class TritonEngine:
    """A connection for files and one for streams."""

    def __init__(self, url: str, timeout: float) -> None:
        """Connect to ``url`` in a running loop; nothing is sent yet. ``timeout`` in seconds bounds a file."""
        self._files = AsyncAsrClient(url, timeout)
        self._streams = AsyncStreamingClient(url)

    async def transcribe(
        self, samples: np.ndarray, key: str = "", keywords: tuple[str, ...] = ()
    ) -> Transcription:
        """Transcribe like `Engine.transcribe`."""
        return await self._files.transcribe(samples, words=True, keywords=keywords)

    async def open_stream(self, options: StreamOptions, key: str = "") -> LiveStream:
        """Begin a stream like `Engine.open_stream`."""
        return await self._streams.open(options)

    async def close(self) -> None:
        """Close both connections."""
        await self._files.__aexit__()
        await self._streams.__aexit__()
