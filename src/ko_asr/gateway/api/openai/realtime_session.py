"""One session of OpenAI's Realtime API: the client's events in, the server's out, until the client leaves."""

import base64
import binascii
import secrets
import time
from typing import Any

from starlette.websockets import WebSocket

from ko_asr.gateway.api.openai.realtime_config import KEYWORDS, SessionConfig
from ko_asr.gateway.api.openai.realtime_items import Event, Items
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.live.inbox import RESTART, Inbox, tell
from ko_asr.gateway.strict_json import read_json
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result

_LEAST_MS = 100  # of a commit: OpenAI's
_DEAF_SECONDS = 1.0  # after a failure: one error a second, whatever the packets
_BUFFER = "input_audio_buffer"


class RealtimeSession:
    """What one WebSocket says and hears."""

    def __init__(
        self, gateway: Gateway, websocket: WebSocket, config: SessionConfig, options: StreamOptions
    ) -> None:
        """``websocket`` is accepted; the session begins with ``config``, of which ``options`` were made."""
        self._gateway, self._websocket, self._config = gateway, websocket, config
        self._id, self._items = f"sess_{secrets.token_hex(12)}", Items()
        self._speech = gateway.speech(websocket, self._take)
        self._speech.options, self._items.include = options, config.include or []
        self._speech.written = config.finish_options(gateway.settings)
        self._deaf_until = 0.0
        self._handlers = {
            "session.update": self._update,
            f"{_BUFFER}.append": self._append,
            f"{_BUFFER}.commit": self._commit,
            f"{_BUFFER}.clear": self._clear,
        }

    async def run(self, inbox: Inbox) -> None:
        """Serve until the gateway stops; cancelled when the client leaves."""
        async with self._speech as speech:
            await speech.use(self._config.encoding, self._config.rate)
            await self._send({"type": "session.created", "session": session_object(self._id, self._config)})
            while (message := await inbox.get()) is not None:
                await self._handle(message)
            if self._detects:
                await speech.end()
        await self._websocket.close(RESTART)

    async def _handle(self, message: str | bytes) -> None:
        event: Any = None
        try:
            event = _parsed(message)
            handler = self._handlers.get(event["type"])
            if handler is None:
                known = ", ".join(self._handlers)
                sentence = f"type is {str(event['type'])[:60]!r}: this session takes {known}"
                raise ApiError(400, sentence, param="type", code="unknown_event")
            await handler(event)
        except ApiError as error:
            await self._fail(error, event)

    async def _fail(self, error: ApiError, event: Any) -> None:
        said = error.body()["error"]
        sender = event.get("event_id") if isinstance(event, dict) else None
        sender = sender if isinstance(sender, str) else None
        await self._send({"type": "error", "error": {**said, "event_id": sender}})

    async def _update(self, event: Event) -> None:
        config = self._config.updated(event.get("session"), self._gateway.settings)
        options = await stream_options(self._gateway, self._websocket, config)
        speech, written = self._speech, config.finish_options(self._gateway.settings)
        before = (self._config.encoding, self._config.rate, speech.options, speech.written)
        if (config.encoding, config.rate, options, written) != before:
            await self._end_utterance()
            await speech.use(config.encoding, config.rate)
            speech.options, speech.written = options, written
        self._config, self._items.include = config, config.include or []
        await self._send({"type": "session.updated", "session": session_object(self._id, self._config)})

    async def _append(self, event: Event) -> None:
        audio = event.get("audio")
        try:
            data = base64.b64decode(audio if isinstance(audio, str) else "?", validate=True)
        except (binascii.Error, ValueError):
            sentence = "audio is not Base64: nothing of it was taken"
            raise ApiError(400, sentence, param="audio", code="invalid_value") from None
        if time.monotonic() < self._deaf_until:
            return
        try:
            await self._speech.send(data)
        except ApiError as error:
            self._deaf_until = time.monotonic() + _DEAF_SECONDS
            await self._speech.drop()
            await self._lost(error)
            raise

    async def _commit(self, event: Event) -> None:
        await self._speech.flush()
        have = self._speech.milliseconds - self._items.begin_ms
        if have < _LEAST_MS and not self._items.open:
            sentence = f"the buffer has {have} ms of audio: a commit needs {_LEAST_MS}"
            raise ApiError(400, sentence, code="input_audio_buffer_commit_empty")
        if self._detects:
            complete = self._items.count
            await self._end_utterance()
            if complete < self._items.count:
                return
        await self._send(*self._items.committed())
        if await self._end_utterance():
            await self._send(*self._items.completed(self._speech.milliseconds, self._speech.version))

    async def _end_utterance(self) -> bool:
        """The last final is told when this returns; False when the recogniser failed, which is told too."""
        try:
            await self._speech.end_utterance()
        except ApiError as error:
            await self._lost(error)
            return False
        return True

    async def _clear(self, event: Event) -> None:
        await self._speech.drop()
        await self._speech.use(self._config.encoding, self._config.rate)
        self._items.dropped(self._speech.milliseconds)
        await self._send({"type": f"{_BUFFER}.cleared"})

    async def _lost(self, error: ApiError) -> None:
        await self._send(*self._items.failed(error.body()["error"], self._speech.milliseconds))

    @property
    def _detects(self) -> bool:
        return self._config.audio.input.turn_detection is not None

    async def _take(self, result: Result) -> None:
        detection = self._config.audio.input.turn_detection
        if detection is None:
            await self._send(*self._items.filled(result))
            return
        await self._send(*self._items.heard(result, detection.prefix_padding_ms))
        if result.is_final:
            end = min(result.end_ms + detection.silence_duration_ms, self._speech.milliseconds)
            await self._send(*self._items.ended(result, end, self._speech.version))

    async def _send(self, *events: Event) -> None:
        for event in events:
            await tell(self._websocket, {"event_id": f"event_{secrets.token_hex(12)}", **event})


async def stream_options(gateway: Gateway, websocket: WebSocket, config: SessionConfig) -> StreamOptions:
    """The options of a stream of a session. ApiError for keywords that the model cannot hear."""
    try:
        return StreamOptions(config.rules, await gateway.stream_keywords(websocket, config.wanted))
    except ApiError as error:
        if error.param is not None:
            error.param = KEYWORDS
        raise


def session_object(name: str, config: SessionConfig) -> dict[str, Any]:
    """A session as OpenAI shows it."""
    return {"id": name, "object": "realtime.transcription_session", **config.to_json()}


def _parsed(message: str | bytes) -> dict[str, Any]:
    try:
        event = read_json(message) if isinstance(message, str) else None
    except ValueError:
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise ApiError(
            400, "a message is a text frame with a JSON object that has a type", code="invalid_json"
        )
    return event
