"""Stream live audio to the ``asr_streaming`` ensemble and read partials and finals, blocking or with asyncio.

    with StreamingClient("gpu-box:8001") as client, client.open() as stream:
        for packet in packets:  # float32 [n] of any n, 16 kHz
            for result in stream.send(packet):
                print(result.text, result.is_final)
        print(stream.finish()[-1].text)

`AsyncStreamingClient` is the same for many streams in one thread. Both draw ids at random, always end their
sequence, wait no longer than ``timeout`` for an answer, and resume a stream whose connection or server was
lost for up to ``reconnect`` seconds, with the audio that was not final yet. Needs tritonclient and numpy;
never torch or NeMo.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ko_asr.client.connection import DEFAULT_URL, ServerError, Tls, connect, server_error
from ko_asr.client.protocol import ChunkSizes, Recovery, Request, StreamProtocol
from ko_asr.errors import UserError
from ko_asr.runtime import tensors
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result
from ko_asr.runtime.tensors import AUDIO, RATE, TEXT

_OUTPUTS = (TEXT, tensors.IS_FINAL, tensors.WORDS, tensors.UTTERANCE, tensors.STABLE, tensors.WRITTEN)
_CLOSE_TIMEOUT = 2.0  # seconds that ending an abandoned sequence may take
# gRPC would wait up to two minutes before it looks for a server again that was restarted.
_CHANNEL = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]


@dataclass(frozen=True)
class Connection:
    """Address of a server and patience of a client, in seconds."""

    url: str = DEFAULT_URL
    model: str = tensors.STREAM_ENSEMBLE
    timeout: float = 10.0  # for one answer
    reconnect: float = 30.0  # for the resumption of a lost stream; 0: never
    tls: Tls | None = None

    def connect(self, library: Any) -> Any:
        """Make a client of ``library``, tritonclient.grpc or its aio. UserError for a malformed address."""
        return connect(library, self.url, self.tls, channel_args=_CHANNEL)

    def server_error(self, error: Exception) -> ServerError:
        """The ServerError for an InferenceServerException of this connection."""
        return server_error(error, self.url, self.timeout, self.model)


def _inputs(request: Request, options: str | None, rate: int) -> list[Any]:
    from tritonclient.grpc import InferInput

    def tensor(name: str, kind: str, array: np.ndarray) -> Any:
        made = InferInput(name, list(array.shape), kind)
        made.set_data_from_numpy(array)
        return made

    made = [tensor(AUDIO, "FP32", request.audio)]
    if request.start:
        made.append(tensor(RATE, "INT32", np.array([[rate]], np.int32)))
        if options is not None:
            made.append(tensor(tensors.OPTIONS, "BYTES", np.array([[options.encode()]], np.object_)))
    return made


def request_arguments(
    model: str, request: Request, options: str | None, rate: int, timeout: float
) -> dict[str, Any]:
    """Keyword arguments of tritonclient's ``infer``."""
    return {
        "model_name": model,
        "inputs": _inputs(request, options, rate),
        "sequence_id": request.sequence_id,
        "sequence_start": request.start,
        "sequence_end": request.end,
        "client_timeout": timeout,
    }


def close_request(sequence_id: int) -> Request:
    """The request without audio that ends a sequence."""
    return Request(sequence_id, np.zeros((1, 0), np.float32), False, True, 0)


def answer_outputs(answer: Any) -> Mapping[str, np.ndarray]:
    """The tensors of an answer by name; an earlier export has no written form."""
    arrays = {name: answer.as_numpy(name) for name in _OUTPUTS}
    return {name: array for name, array in arrays.items() if array is not None}


def _sizes(model: str, reply: Any) -> ChunkSizes:
    parameters = {key: value.string_value for key, value in reply.config.parameters.items()}
    return ChunkSizes.from_parameters(model, parameters)


class _Exchange:
    """The half that both kinds of stream share: protocol, options and recovery from failures."""

    def __init__(self, connection: Connection, sizes: ChunkSizes, options: StreamOptions | None, rate: int):
        self.connection, self.protocol = connection, StreamProtocol(sizes)
        self._options = options.to_json() if options else None
        self._rate = rate
        self._recovery = Recovery(connection.reconnect)

    def arguments(self, request: Request, timeout: float | None = None) -> dict[str, Any]:
        wait = self.connection.timeout if timeout is None else timeout
        return request_arguments(self.connection.model, request, self._options, self._rate, wait)

    def close_arguments(self) -> dict[str, Any] | None:
        """Arguments of the request that ends a sequence which the server may still hold; None without one."""
        if not self.protocol.open_on_server:
            return None
        return self.arguments(close_request(self.protocol.sequence_id), _CLOSE_TIMEOUT)

    def answered(self, request: Request, answer: Any) -> list[Result]:
        self._recovery.answered(request)
        return self.protocol.answered(request, answer_outputs(answer))

    def failed(self, error: Exception, request: Request) -> float:
        """Seconds until the stream is resumed; raises ServerError when it cannot be."""
        found = error if isinstance(error, ServerError) else self.connection.server_error(error)
        try:
            return self._recovery.wait(found, request, time.monotonic())
        except ServerError:
            raise found from error


class Stream:
    """A blocking stream: `send` returns when the chunks that its packet completed are answered.

    So a caller can never run ahead of the server. Not for several threads at once.
    """

    def __init__(self, infer: Callable[..., Any], failure: type[Exception], exchange: _Exchange) -> None:
        self._infer, self._failure, self._exchange = infer, failure, exchange
        self._error: UserError | None = None  # the one that the stream failed with for good

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, samples: np.ndarray) -> list[Result]:
        """Take float32 ``samples`` [n]; the results that they bring.

        Raises StreamsFull when the server has no room, ServerError when it fails for good, UserError for
        invalid samples.
        """
        self._exchange.protocol.feed(samples)
        return self._pump()

    def finish(self) -> list[Result]:
        """End the audio: the last results."""
        self._exchange.protocol.end()
        return self._pump()

    def close(self) -> None:
        """End the sequence if it is still open; its unfinished utterance is given up."""
        if (arguments := self._exchange.close_arguments()) is not None:
            self._exchange.protocol.done = True
            with contextlib.suppress(self._failure):
                self._infer(**arguments)

    def _pump(self) -> list[Result]:
        if self._error is not None:
            raise self._error
        results: list[Result] = []
        while (request := self._exchange.protocol.request()) is not None:
            try:
                answer = self._infer(**self._exchange.arguments(request))
            except self._failure as error:
                self._resume(error, request)
                continue
            results += self._exchange.answered(request, answer)
        return results

    def _resume(self, failure: Exception, request: Request) -> None:
        try:
            wait = self._exchange.failed(failure, request)
            self.close()
            time.sleep(wait)
            self._exchange.protocol.resume()
        except UserError as error:
            self._error = error
            self.close()
            raise


class StreamingClient:
    """One gRPC connection for blocking streams."""

    def __init__(self, url: str = DEFAULT_URL, **rest: Any) -> None:
        """Connect; ``rest`` holds the other fields of `Connection`. Nothing is sent yet."""
        import tritonclient.grpc as triton

        self.connection = Connection(url, **rest)
        self._failure = triton.InferenceServerException
        self._client = self.connection.connect(triton)
        self._sizes: ChunkSizes | None = None

    def __enter__(self) -> "StreamingClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def sizes(self) -> ChunkSizes:
        """The server's chunk sizes, asked once. Raises ServerError when it cannot be asked."""
        if self._sizes is None:
            connection = self.connection
            try:
                reply = self._client.get_model_config(connection.model, client_timeout=connection.timeout)
            except self._failure as error:
                raise connection.server_error(error) from error
            self._sizes = _sizes(connection.model, reply)
        return self._sizes

    def open(self, options: StreamOptions | None = None, sample_rate: int = 16_000) -> Stream:
        """Open a stream, to be used in a ``with`` block; its first chunk takes its place on the server."""
        exchange = _Exchange(self.connection, self.sizes(), options, sample_rate)
        return Stream(self._client.infer, self._failure, exchange)


class Route(Protocol):
    """The way of one stream to a server: one way for each of its sequences."""

    async def begin(self) -> ChunkSizes:
        """Choose the server of the next sequence; its chunk sizes. Raises ServerError without one."""

    async def infer(self, **arguments: Any) -> Any:
        """Send one request of this sequence. Raises ServerError."""


class AsyncStream:
    """An asyncio stream: `send` packets and iterate over results, at the same time if need be.

    ``send`` waits while more than ``pending_seconds`` of audio are not answered. Use it in ``async with``.
    """

    def __init__(self, route: Route, exchange: _Exchange, pending_seconds: float) -> None:
        self._route, self._exchange = route, exchange
        sizes = exchange.protocol.sizes
        self._limit = max(int(pending_seconds * sizes.sample_rate), sizes.first_samples)
        self._requestable, self._room = asyncio.Event(), asyncio.Event()
        self._busy = False  # a request is on its way
        self._results: asyncio.Queue[Result | None] = asyncio.Queue()
        self._pump = asyncio.ensure_future(self._run())

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self.close())

    async def send(self, samples: np.ndarray) -> None:
        """Take float32 ``samples`` [n]. Raises like `Stream.send`, for an earlier packet as well."""
        self._exchange.protocol.feed(samples)
        if self._exchange.protocol.ready:
            self._requestable.set()
        while not self._has_room():
            self._room.clear()
            await self._room.wait()
        self._check()

    async def finish(self) -> None:
        """End the audio; the iteration ends with the last result."""
        self._exchange.protocol.end()
        self._requestable.set()

    async def __aiter__(self) -> AsyncIterator[Result]:
        while (result := await self._results.get()) is not None:
            yield result
        self._results.put_nowait(None)  # a second iteration ends as well
        self._check()

    async def close(self, notify: bool = True) -> None:
        """End the sequence if it is still open; its unfinished utterance is given up.

        Without ``notify`` nothing is sent to the server, as if this process had died.
        """
        self._pump.cancel()
        await asyncio.wait([self._pump])
        if notify:
            await self._send_close()

    @property
    def unanswered(self) -> bool:
        """True while a chunk of the packets so far is still to be sent or answered. Raises as `send`."""
        self._check()
        return self._busy or self._exchange.protocol.ready

    def _has_room(self) -> bool:
        return self._exchange.protocol.pending <= self._limit or self._pump.done()

    def _check(self) -> None:
        if self._pump.done() and not self._pump.cancelled() and (error := self._pump.exception()):
            raise error

    async def _send_close(self) -> None:
        if (arguments := self._exchange.close_arguments()) is not None:
            self._exchange.protocol.done = True
            with contextlib.suppress(ServerError):
                await self._route.infer(**arguments)

    async def _next(self) -> Request | None:
        protocol = self._exchange.protocol
        while (request := protocol.request()) is None and not protocol.done:
            self._requestable.clear()
            await self._requestable.wait()
        self._room.set()
        return request

    async def _run(self) -> None:
        try:
            while (request := await self._next()) is not None:
                self._busy = True
                for result in await self._answer(request):
                    self._results.put_nowait(result)
                self._busy = False
        finally:
            self._results.put_nowait(None)
            self._room.set()

    async def _answer(self, request: Request) -> list[Result]:
        try:
            answer = await self._route.infer(**self._exchange.arguments(request))
        except ServerError as error:
            await self._resume(error, request)
            return []
        return self._exchange.answered(request, answer)

    async def _resume(self, failure: ServerError, request: Request) -> None:
        while True:
            try:
                wait = self._exchange.failed(failure, request)
            finally:
                await self._send_close()
            await asyncio.sleep(wait)
            try:
                sizes = await self._route.begin()
            except ServerError as error:
                failure = error
                continue
            self._exchange.protocol.resume(sizes)
            return


class AsyncStreamingClient:
    """One gRPC connection for any number of asyncio streams. Use it in ``async with``."""

    def __init__(self, url: str = DEFAULT_URL, **rest: Any) -> None:
        """Connect like `StreamingClient`, while an event loop runs."""
        import tritonclient.grpc.aio as triton
        from tritonclient.grpc import InferenceServerException

        self.connection = Connection(url, **rest)
        self._failure = InferenceServerException
        self._client = self.connection.connect(triton)
        self._sizes: ChunkSizes | None = None

    async def __aenter__(self) -> "AsyncStreamingClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def sizes(self, again: bool = False) -> ChunkSizes:
        """The server's chunk sizes, asked once, or ``again``. Raises ServerError when it cannot be asked."""
        if self._sizes is None or again:
            connection = self.connection
            try:
                reply = await self._client.get_model_config(
                    connection.model, client_timeout=connection.timeout
                )
            except self._failure as error:
                raise connection.server_error(error) from error
            self._sizes = _sizes(connection.model, reply)
        return self._sizes

    async def begin(self) -> ChunkSizes:
        """Take this connection for a sequence, as a `Route` does."""
        return await self.sizes()

    async def infer(self, **arguments: Any) -> Any:
        """Send one request of a sequence. Raises ServerError."""
        try:
            return await self._client.infer(**arguments)
        except self._failure as error:
            raise self.connection.server_error(error) from error

    async def open(
        self, options: StreamOptions | None = None, sample_rate: int = 16_000, pending_seconds: float = 5.0
    ) -> AsyncStream:
        """Open a stream; its first chunk takes its place on the server."""
        return await open_stream(self, self.connection, options, sample_rate, pending_seconds)


async def open_stream(
    route: Route,
    connection: Connection,
    options: StreamOptions | None = None,
    sample_rate: int = 16_000,
    pending_seconds: float = 5.0,
) -> AsyncStream:
    """Open a stream that goes by ``route``, with the model and the patience of ``connection``."""
    exchange = _Exchange(connection, await route.begin(), options, sample_rate)
    return AsyncStream(route, exchange, pending_seconds)
