"""Talk to the ``asr`` ensemble: any audio file to 16 kHz mono, one gRPC request, text and confidence back.

Needs tritonclient, soundfile and soxr; never torch or NeMo.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr import contract as names
from ko_asr.errors import UserError

SAMPLE_RATE = 16_000
DEFAULT_URL = "127.0.0.1:8001"

_INFER = "/inference.GRPCInferenceService/ModelInfer"
_RAW_INPUT = b"\x3a"  # field 7, raw_input_contents, of length-delimited type
_CHANNEL = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]  # no limit
_KINDS = {"float32": "FP32", "float64": "FP64", "int16": "INT16", "int32": "INT32"}


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


def infer_message(model: str, inputs: dict[str, np.ndarray], outputs: tuple[str, ...]) -> bytes:
    """A serialised ``ModelInferRequest`` of contiguous ``inputs``, as tritonclient would make it.

    tritonclient copies the audio three times on its way into the message, and concurrent requests of one
    process wait for that: here it is joined to the rest once. Fields may stand in any order and messages be
    joined (protobuf.dev/programming-guides/encoding), so the bytes follow what protobuf has written.
    """
    from tritonclient.grpc import service_pb2 as pb

    request = pb.ModelInferRequest(model_name=model)
    parts: list[Any] = []
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=_KINDS[array.dtype.name], shape=array.shape)
        parts += [_RAW_INPUT, bytes(_varint(array.nbytes)), array.reshape(-1).view(np.uint8).data]
    for name in outputs:
        request.outputs.add(name=name)
    return b"".join([request.SerializeToString(), *parts])


def _varint(number: int) -> Iterator[int]:
    """Seven bits a byte, the lowest first; all but the last byte have the eighth bit."""
    while number > 0x7F:
        yield number & 0x7F | 0x80
        number >>= 7
    yield number


class AsrClient:
    """One gRPC connection to a server. Not for several threads at once: give each its own."""

    def __init__(self, url: str = DEFAULT_URL, timeout: float = 60.0) -> None:
        """Connect to ``url`` (host:port). Nothing is sent yet; ``timeout`` in seconds bounds each request."""
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        self.url, self.timeout = url, timeout
        self._failure, self._messages = grpc.RpcError, service_pb2
        try:
            self._channel = grpc.insecure_channel(url, _CHANNEL)
        except Exception as error:  # grpc raises several kinds for a malformed address
            raise UserError(f"{url} is not an address: write host:port, such as {DEFAULT_URL}") from error
        self._server = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        answer = service_pb2.ModelInferResponse.FromString
        self._infer = self._channel.unary_unary(_INFER, response_deserializer=answer)

    def __enter__(self) -> "AsrClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def check(self) -> None:
        """Raise ServerError unless the server answers and serves the ensemble."""
        question = self._messages.ModelReadyRequest(name=names.ENSEMBLE)
        try:
            ready = self._server.ModelReady(question, timeout=min(self.timeout, 10.0)).ready
        except self._failure as error:
            raise self._explained(error) from error
        if not ready:
            raise ServerError("UNAVAILABLE", f"the server at {self.url} does not serve {names.ENSEMBLE!r}")

    def transcribe(self, audio: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Transcript:
        """Transcribe float32 ``audio`` [n] in -1..1. Raises ServerError with the gRPC code.

        The rate is sent along: the server refuses one that is not the model's instead of mishearing.
        """
        audio = np.ascontiguousarray(audio)[None, :]
        if audio.dtype.name not in _KINDS:
            raise UserError(f"audio is {audio.dtype}: send float32 samples in -1..1")
        inputs = {names.AUDIO: audio, names.RATE: np.array([[sample_rate]], np.int32)}
        message = infer_message(names.ENSEMBLE, inputs, (names.TEXT, names.CONFIDENCE))
        try:
            answer = self._infer(message, timeout=self.timeout)
        except self._failure as error:
            raise self._explained(error) from error
        found = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=True))
        text = found[names.TEXT][4:].decode()  # after its length
        return Transcript(text, *struct.unpack("<f", found[names.CONFIDENCE]))

    def _explained(self, error: Any) -> ServerError:
        code, message = error.code().name, error.details() or ""
        return explained(code, message, self.url, self.timeout, names.ENSEMBLE)


def explained(code: str, message: str, url: str, timeout: float, model: str) -> ServerError:
    """What the gRPC status ``code`` and its ``message`` mean for a request to ``model`` at ``url``."""
    if code == "UNAVAILABLE":
        return ServerError(code, f"no server answers at {url}: start one with make serve, or give --url")
    if code == "DEADLINE_EXCEEDED":
        return ServerError(code, f"no answer from {url} within {timeout:g} s")
    text = message.removeprefix("[request id: <id_unknown>] ").removeprefix(f"in ensemble '{model}', ")
    return ServerError(code, text.strip())
