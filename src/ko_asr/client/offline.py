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
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.words import Written
from ko_asr.runtime import tensors
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.runtime.options import FileOptions


@dataclass(frozen=True)
class Transcription:
    """The server's answer to one recording: text (NFC) and confidence in 0..1.

    ``words``, where asked for: of each its ``text``, ``start_ms``, ``end_ms`` and ``confidence``.
    ``written``, where asked for, is the written form; the sources of its words are numbers of these.
    """

    text: str
    confidence: float
    words: tuple[dict[str, Any], ...] = ()
    written: Written | None = None


def _request(
    library: Any, audio: np.ndarray, sample_rate: int, words: bool, options: FileOptions
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
    if options != FileOptions():
        given = library.InferInput(tensors.OPTIONS, [1, 1], "BYTES")
        given.set_data_from_numpy(np.array([[options.to_json().encode()]], np.object_))
        inputs.append(given)
    wanted = [tensors.TEXT, tensors.CONFIDENCE]
    wanted += [tensors.WORDS] if words else []
    wanted += [tensors.WRITTEN] if options.written else []
    outputs = [library.InferRequestedOutput(name) for name in wanted]
    return {"model_name": tensors.ENSEMBLE, "inputs": inputs, "outputs": outputs}


def _transcription(answer: Any, words: bool, options: FileOptions) -> Transcription:
    def read(name: str) -> Any:
        return json.loads(answer.as_numpy(name)[0, 0])

    return Transcription(
        text=answer.as_numpy(tensors.TEXT)[0, 0].decode(),
        confidence=float(answer.as_numpy(tensors.CONFIDENCE)[0, 0]),
        words=tuple(read(tensors.WORDS)) if words else (),
        written=Written.from_json(read(tensors.WRITTEN)) if options.written else None,
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
        written: FinishOptions | None = None,
    ) -> Transcription:
        """Transcribe float32 ``audio`` [n] in -1..1, with each word's times if ``words``.

        ``keywords``, 단어 or 단어:점수, are favoured; ``written`` asks for the written form beside the spoken
        one. Raises ServerError with the gRPC code, KeywordsNotTaken and WrittenNotGiven where the model was
        exported without them. The rate is sent along: the server refuses one that is not the model's.
        """
        options = FileOptions(tuple(keywords), written)
        request = _request(self._triton, audio, sample_rate, words, options)
        try:
            answer = self._client.infer(**request, client_timeout=self.timeout)
            return _transcription(answer, words, options)
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
        written: FinishOptions | None = None,
    ) -> Transcription:
        """Transcribe like `AsrClient.transcribe`."""
        options = FileOptions(tuple(keywords), written)
        request = _request(self._triton, audio, sample_rate, words, options)
        try:
            answer = await self._client.infer(**request, client_timeout=self.timeout)
            return _transcription(answer, words, options)
        except self._triton.InferenceServerException as error:
            raise server_error(error, self.url, self.timeout, tensors.ENSEMBLE) from error
