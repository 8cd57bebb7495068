"""The engine behind the gateway: turns, failures as HTTP, and whether it works."""

import asyncio
import logging
import secrets
import time
from collections.abc import Hashable

import numpy as np

from ko_asr.client.connection import AnswerTimeout, RequestRefused, ServerError
from ko_asr.client.offline import Transcription
from ko_asr.gateway.caller import EVERYBODY, Caller
from ko_asr.gateway.engine.engine import Engine, LiveStream, Served, nobody
from ko_asr.gateway.engine.fair_turns import FairTurns
from ko_asr.gateway.engine.server import is_full
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.runtime.options import StreamOptions

LOG = logging.getLogger("ko_asr.gateway")
_TRUSTED = 5.0  # seconds for which an answered inference says that the next one will be
_PROBE_TIMEOUT = 10.0  # seconds
_MOMENT = np.zeros(SAMPLE_RATE // 10, np.float32)
_RETRY_AFTER = 5  # seconds: a server that died is started again within 15 (docs/serving.md)


class Recogniser:
    """One engine for all requests. Use it in ``async with``."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self._engine = engine
        self._turns = FairTurns(settings.in_flight)
        self._probing = asyncio.Lock()
        self._answered = -_TRUSTED

    async def __aenter__(self) -> "Recogniser":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.close()

    async def transcribe(
        self,
        samples: np.ndarray,
        owner: Hashable,
        caller: Caller = EVERYBODY,
        keywords: tuple[str, ...] = (),
    ) -> Transcription:
        """Transcribe float32 [n] with words, when it is ``owner``'s turn. ApiError when that fails."""
        async with self._turns.turn(owner, caller.name):
            return await self._infer(samples, _key(caller, owner), keywords)

    async def try_keywords(self, keywords: tuple[str, ...], owner: Hashable, caller: Caller) -> None:
        """Raise RequestRefused unless the model takes ``keywords``; ApiError when it cannot be asked."""
        async with self._turns.turn(owner, caller.name):
            try:
                await self._engine.transcribe(_MOMENT, _key(caller, owner), keywords)
            except RequestRefused:
                raise
            except ServerError as error:
                raise api_error(error) from error

    async def open_stream(
        self, options: StreamOptions, caller: Caller = EVERYBODY, served: Served = nobody
    ) -> LiveStream:
        """Begin a live stream, whose version ``served`` is told.

        ApiError when that fails; the stream itself raises ServerError later.
        """
        try:
            return await self._engine.open_stream(options, _key(caller, secrets.token_hex(8)), served)
        except ServerError as error:
            raise api_error(error) from error

    async def try_stream_keywords(self, keywords: tuple[str, ...], owner: Hashable, caller: Caller) -> None:
        """Raise RequestRefused unless the model of live speech takes ``keywords``; ApiError like above."""
        stream = await self.open_stream(StreamOptions(keywords=keywords), caller)
        try:
            await stream.send(_MOMENT)
            await stream.finish()
            async for _ in stream:
                pass
        except RequestRefused:
            raise
        except ServerError as error:
            raise api_error(error) from error
        finally:
            await stream.close()

    async def check(self) -> None:
        """Raise ApiError unless an inference was answered just now; else one is made, past the queue."""
        async with self._probing:
            if time.monotonic() - self._answered < _TRUSTED:
                return
            try:
                async with asyncio.timeout(_PROBE_TIMEOUT):
                    await self._infer(np.zeros(SAMPLE_RATE, np.float32), "")
            except TimeoutError:
                raise _come_again("is late", "timeout") from None

    async def _infer(self, samples: np.ndarray, key: str, keywords: tuple[str, ...] = ()) -> Transcription:
        try:
            answer = await self._engine.transcribe(samples, key, keywords)
        except ServerError as error:
            raise api_error(error) from error
        self._answered = time.monotonic()
        return answer


def _key(caller: Caller, owner: Hashable) -> str:
    """What keeps a caller at one version of the model; those without a key choose anew each time."""
    return str(owner) if caller == EVERYBODY else caller.name


def api_error(error: ServerError) -> ApiError:
    """The refusal that tells a client of ``error``; the log has what was wrong."""
    if isinstance(error, RequestRefused):
        sentence = str(error).removeprefix(f"{error.code}: ")
        return ApiError(400, f"the recogniser refuses this audio: {sentence}", code="audio_refused")
    LOG.warning("Triton: %s", error)
    if is_full(error):
        return ApiError(429, "the recogniser is full: try again later", code="full", retry_after=1)
    if isinstance(error, AnswerTimeout):
        return _come_again("is late", "timeout")
    return _come_again("does not answer", "unavailable")


def _come_again(what: str, code: str) -> ApiError:
    return ApiError(503, f"the recogniser {what}: try again later", code=code, retry_after=_RETRY_AFTER)
