"""Talk to the ``asr`` ensemble: any audio file to 16 kHz mono, one gRPC request, text and confidence back.

    with AsrClient("gpu-box:8001") as client:
        print(client.transcribe(read_audio("speech.wav"), words=True))

`AsyncAsrClient` is the same for asyncio. Needs tritonclient, soundfile and soxr; never torch or NeMo.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr import contract as names
from ko_asr.errors import UserError

SAMPLE_RATE = 16_000
DEFAULT_URL = "127.0.0.1:8001"


class ServerError(UserError):
    """The server refused or could not be reached; ``code`` is the gRPC status (INVALID_ARGUMENT, ...)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclass(frozen=True)
class Transcript:
    """What the server heard: text (NFC) and confidence in 0..1.

    ``words``, where asked for: of each its ``text``, ``start_ms``, ``end_ms`` and ``confidence``.
    """

    text: str
    confidence: float
    words: tuple[dict[str, Any], ...] = ()


def read_audio(path: str | Path) -> np.ndarray:
    """Samples of any file libsndfile reads, as float32 [n] in -1..1, mono, 16 kHz.

    Channels are averaged and other rates resampled by soxr (HQ). Raises UserError when the file is missing,
    empty or not audio.
    """
    import soundfile
    import soxr

    if not Path(path).is_file():
        raise UserError(f"no file {path}")
    try:
        samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError) as error:  # TypeError: headerless .raw without a format
        raise UserError(f"{path} is no audio that libsndfile reads: send WAV, FLAC, OGG or MP3") from error
    if not len(samples):
        raise UserError(f"{path} holds no samples")
    mono = samples.mean(axis=1, dtype=np.float32)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    return np.ascontiguousarray(mono, np.float32)


@dataclass(frozen=True)
class Tls:
    """Files in PEM format; without ``root`` the system's authorities are trusted."""

    root: Path | None = None
    key: Path | None = None  # of the client, where the server asks for one
    chain: Path | None = None

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """The command line of `of`."""
        parser.add_argument(
            "--tls", action="store_true", help="encrypt; trust the system's authorities or --tls-root"
        )
        files = {"root": "authorities", "key": "client's key", "chain": "client's certificate"}
        for name, what in files.items():
            parser.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=f"{what}, for --tls")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Tls | None":
        """What the command line asks for; None for a connection in the clear."""
        files = (args.tls_root, args.tls_key, args.tls_chain)
        return cls(*files) if args.tls or any(files) else None

    def arguments(self) -> dict[str, Any]:
        """As tritonclient takes them. UserError when a file is missing."""
        files = {"root_certificates": self.root, "private_key": self.key, "certificate_chain": self.chain}
        for path in files.values():
            if path is not None and not path.is_file():
                raise UserError(f"no file {path}: give the TLS certificates in PEM format")
        return {"ssl": True} | {name: str(path) for name, path in files.items() if path is not None}


def connect(library: Any, url: str, tls: Tls | None, **options: Any) -> Any:
    """A client of ``library``, tritonclient.grpc or its aio. UserError for a malformed address."""
    try:
        return library.InferenceServerClient(url, **options, **(tls.arguments() if tls else {}))
    except UserError:
        raise
    except Exception as error:  # tritonclient raises its own and grpc's kinds
        raise UserError(f"{url} is not an address: write host:port, such as {DEFAULT_URL}") from error


def _request(library: Any, audio: np.ndarray, sample_rate: int, words: bool) -> dict[str, Any]:
    """The arguments of ``infer`` for one recording."""
    audio = np.ascontiguousarray(audio)[None, :]
    kind = {"float32": "FP32", "float64": "FP64", "int16": "INT16"}.get(audio.dtype.name)
    if kind is None:
        raise UserError(f"audio is {audio.dtype}: send float32 samples in -1..1")
    samples = library.InferInput(names.AUDIO, list(audio.shape), kind)
    samples.set_data_from_numpy(audio)
    rate = library.InferInput(names.RATE, [1, 1], "INT32")
    rate.set_data_from_numpy(np.array([[sample_rate]], np.int32))
    wanted = [names.TEXT, names.CONFIDENCE, *([names.WORDS] if words else [])]
    outputs = [library.InferRequestedOutput(name) for name in wanted]
    return {"model_name": names.ENSEMBLE, "inputs": [samples, rate], "outputs": outputs}


def _transcript(answer: Any, words: bool) -> Transcript:
    return Transcript(
        text=answer.as_numpy(names.TEXT)[0, 0].decode(),
        confidence=float(answer.as_numpy(names.CONFIDENCE)[0, 0]),
        words=tuple(json.loads(answer.as_numpy(names.WORDS)[0, 0])) if words else (),
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
            if not self._client.is_model_ready(names.ENSEMBLE, client_timeout=min(self.timeout, 10.0)):
                raise ServerError(
                    "UNAVAILABLE", f"the server at {self.url} does not serve {names.ENSEMBLE!r}"
                )
        except self._triton.InferenceServerException as error:
            raise explained(error, self.url, self.timeout, names.ENSEMBLE) from error

    def transcribe(
        self, audio: np.ndarray, sample_rate: int = SAMPLE_RATE, *, words: bool = False
    ) -> Transcript:
        """Transcribe float32 ``audio`` [n] in -1..1, with each word's times if ``words``.

        Raises ServerError with the gRPC code. The rate is sent along: the server refuses one that is not the
        model's instead of mishearing.
        """
        request = _request(self._triton, audio, sample_rate, words)
        try:
            return _transcript(self._client.infer(**request, client_timeout=self.timeout), words)
        except self._triton.InferenceServerException as error:
            raise explained(error, self.url, self.timeout, names.ENSEMBLE) from error


class AsyncAsrClient:
    """The same for asyncio: one connection, any number of requests at a time."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 60.0, tls: Tls | None = None) -> None:
        """As `AsrClient`; to be made while an event loop runs."""
        import tritonclient.grpc.aio as triton

        self.url, self.timeout = url, timeout
        self._triton = triton
        self._client = connect(triton, url, tls)

    async def __aenter__(self) -> "AsyncAsrClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def transcribe(
        self, audio: np.ndarray, sample_rate: int = SAMPLE_RATE, *, words: bool = False
    ) -> Transcript:
        """As `AsrClient.transcribe`."""
        request = _request(self._triton, audio, sample_rate, words)
        try:
            return _transcript(await self._client.infer(**request, client_timeout=self.timeout), words)
        except self._triton.InferenceServerException as error:
            raise explained(error, self.url, self.timeout, names.ENSEMBLE) from error


def explained(error: Exception, url: str, timeout: float, model: str) -> ServerError:
    """What an InferenceServerException of a request to ``model`` at ``url`` means."""
    code = str(getattr(error, "status", lambda: None)() or "UNKNOWN").rpartition(".")[2]
    if code == "UNAVAILABLE":
        return ServerError(code, f"no server answers at {url}: start one with make serve, or give --url")
    if code == "DEADLINE_EXCEEDED":
        return ServerError(code, f"no answer from {url} within {timeout:g} s")
    text = getattr(error, "message", lambda: str(error))() or str(error)
    text = text.removeprefix("[request id: <id_unknown>] ").removeprefix(f"in ensemble '{model}', ")
    return ServerError(code, text.strip())
