"""Talk to the ``asr`` ensemble: any audio file to 16 kHz mono, one gRPC request, text and confidence back.

Needs tritonclient, soundfile and soxr; never torch or NeMo.
"""

from dataclasses import dataclass
from pathlib import Path

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
    """What the server heard: text (NFC) and confidence in 0..1."""

    text: str
    confidence: float


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


class AsrClient:
    """One gRPC connection to a server. Not for several threads at once: give each its own."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 60.0) -> None:
        """Connect to ``url`` (host:port). Nothing is sent yet; ``timeout`` in seconds bounds each request."""
        import tritonclient.grpc as triton

        self.url, self.timeout = url, timeout
        self._triton = triton
        self._outputs = [triton.InferRequestedOutput(name) for name in (names.TEXT, names.CONFIDENCE)]
        try:
            self._client = triton.InferenceServerClient(url)
        except Exception as error:  # tritonclient raises its own and grpc's kinds for a malformed address
            raise UserError(f"{url} is not an address: write host:port, such as {DEFAULT_URL}") from error

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
            raise self._explained(error) from error

    def transcribe(self, audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Transcript:
        """Transcribe float32 ``audio`` [n] in -1..1. Raises ServerError with the gRPC code.

        The rate is sent along: the server refuses one that is not the model's instead of mishearing.
        """
        audio = np.ascontiguousarray(audio)[None, :]
        kind = {"float32": "FP32", "float64": "FP64", "int16": "INT16"}.get(audio.dtype.name)
        if kind is None:
            raise UserError(f"audio is {audio.dtype}: send float32 samples in -1..1")
        samples = self._triton.InferInput(names.AUDIO, list(audio.shape), kind)
        samples.set_data_from_numpy(audio)
        rate = self._triton.InferInput(names.RATE, [1, 1], "INT32")
        rate.set_data_from_numpy(np.array([[sample_rate]], np.int32))
        try:
            result = self._client.infer(
                names.ENSEMBLE, [samples, rate], outputs=self._outputs, client_timeout=self.timeout
            )
        except self._triton.InferenceServerException as error:
            raise self._explained(error) from error
        text = result.as_numpy(names.TEXT)[0, 0].decode()
        return Transcript(text, float(result.as_numpy(names.CONFIDENCE)[0, 0]))

    def _explained(self, error: Exception) -> ServerError:
        return explained(error, self.url, self.timeout, names.ENSEMBLE)


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
