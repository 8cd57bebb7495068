"""Talk to the ``asr`` ensemble: any audio file to 16 kHz mono, one gRPC request, text and confidence back.

    with AsrClient("gpu-box:8001") as client:
        print(client.transcribe(read_audio("speech.wav"), words=True))

`AsyncAsrClient` is the same for asyncio. Needs tritonclient, soundfile and soxr; never torch or NeMo.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ko_asr.client.connection import DEFAULT_URL, ServerUnavailable, Tls, connect, server_error
from ko_asr.errors import UserError
from ko_asr.runtime import tensors
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.runtime.options import keywords_json


@dataclass(frozen=True)
class Transcription:
    """The server's answer to one recording: text (NFC) and confidence in 0..1.

    ``words``, where asked for: of each its ``text``, ``start_ms``, ``end_ms`` and ``confidence``.
    """

    text: str
    confidence: float
    words: tuple[dict[str, Any], ...] = ()


def _request(
    library: Any, audio: np.ndarray, sample_rate: int, words: bool, keywords: Sequence[str]
) -> dict[str, Any]:
    """The arguments of ``infer`` for one recording."""
    audio = np.ascontiguousarray(audio)[None, :]
    kind = {"float32": "FP32", "float64": "FP64", "int16": "INT16"}.get(audio.dtype.name)
    if kind is None:
        raise UserError(f"audio is {audio.dtype}: send float32 samples in -1..1")
    samples = library.InferInput(tensors.AUDIO, list(audio.shape), kind)
    samples.set_data_from_numpy(audio)
    rate = library.InferInput(tensors.RATE, [1, 1], "INT32")
    rate.set_data_from_numpy(np.array([[sample_rate]], np.int32))
    inputs = [samples, rate]
    if keywords:
        options = library.InferInput(tensors.OPTIONS, [1, 1], "BYTES")
        options.set_data_from_numpy(np.array([[keywords_json(keywords).encode()]], np.object_))
        inputs.append(options)
    wanted = [tensors.TEXT, tensors.CONFIDENCE, *([tensors.WORDS] if words else [])]
    outputs = [library.InferRequestedOutput(name) for name in wanted]
    return {"model_name": tensors.ENSEMBLE, "inputs": inputs, "outputs": outputs}


def _transcription(answer: Any, words: bool) -> Transcription:
    return Transcription(
        text=answer.as_numpy(tensors.TEXT)[0, 0].decode(),
        confidence=float(answer.as_numpy(tensors.CONFIDENCE)[0, 0]),
        words=tuple(json.loads(answer.as_numpy(tensors.WORDS)[0, 0])) if words else (),
    )


class AsrClient:
    """One gRPC connection to a server. Not for several threads at once: give each its own."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 60.0, tls: Tls | None = None) -> None:
        """Connect to ``url`` (host:port). Nothing is sent yet; ``timeout`` in seconds bounds each request."""
        import tritonclient.grpc as triton

        self.url, self.timeout = url, timeout
        self._triton = triton
        self._client = connect(triton, url, tls)

    def __enter__(self) -> "AsrClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def check(self) -> None:
        """Raise ServerError unless the server answers and serves the ensemble."""
        try:
            if not self._client.is_model_ready(tensors.ENSEMBLE, client_timeout=min(self.timeout, 10.0)):
                raise ServerUnavailable(
                    "UNAVAILABLE", f"the server at {self.url} does not serve {tensors.ENSEMBLE!r}"
                )
        except self._triton.InferenceServerException as error:
            raise server_error(error, self.url, self.timeout, tensors.ENSEMBLE) from error

    def transcribe(
        self,
        audio: np.ndarray,
        sample_rate: int = SAMPLE_RATE,
        *,
        words: bool = False,
        keywords: Sequence[str] = (),
    ) -> Transcription:
        """Transcribe float32 ``audio`` [n] in -1..1, with each word's times if ``words``.

        ``keywords``, 단어 or 단어:점수, are favoured. Raises ServerError with the gRPC code, KeywordsNotTaken
        where the model was exported without that input. The rate is sent along: the server refuses one that
        is not the model's.
        """
        request = _request(self._triton, audio, sample_rate, words, keywords)
        try:
            return _transcription(self._client.infer(**request, client_timeout=self.timeout), words)
        except self._triton.InferenceServerException as error:
            raise server_error(error, self.url, self.timeout, tensors.ENSEMBLE) from error


class AsyncAsrClient:
    """`AsrClient` for asyncio: one connection, any number of requests at a time."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 60.0, tls: Tls | None = None) -> None:
        """Connect like `AsrClient`, while an event loop runs."""
        import tritonclient.grpc.aio as triton

        self.url, self.timeout = url, timeout
        self._triton = triton
        self._client = connect(triton, url, tls)

    async def __aenter__(self) -> "AsyncAsrClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def transcribe(
        self,
        audio: np.ndarray,
        sample_rate: int = SAMPLE_RATE,
        *,
        words: bool = False,
        keywords: Sequence[str] = (),
    ) -> Transcription:
        """Transcribe like `AsrClient.transcribe`."""
        request = _request(self._triton, audio, sample_rate, words, keywords)
        try:
            return _transcription(await self._client.infer(**request, client_timeout=self.timeout), words)
        except self._triton.InferenceServerException as error:
            raise server_error(error, self.url, self.timeout, tensors.ENSEMBLE) from error
