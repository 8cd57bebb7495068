"""RTZR's streaming recognition: WS /rtzr/v1/transcribe:streaming."""

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.websockets import WebSocket

from ko_asr.gateway import rtzr_errors
from ko_asr.gateway.api.rtzr.stream_options import RtzrOptions, read_query
from ko_asr.gateway.api.rtzr.written import finished_by
from ko_asr.gateway.engine.keywords import read_keywords
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.live.inbox import RESTART, Inbox, tell
from ko_asr.gateway.strict_json import read_json
from ko_asr.runtime.options import StreamOptions
from ko_asr.runtime.results import Result

_IDLE_SECONDS = 60.0  # without a frame; silence that is sent is not idle
_DONE, _REFUSED, _FAILED, _LATER = 1000, 1008, 1011, 1013  # close codes
_REASON_BYTES = 123  # the most that a close frame takes


def routes(gateway: Gateway) -> APIRouter:
    """The route of ``gateway``."""
    router = APIRouter()

    @router.websocket(f"{rtzr_errors.PREFIX}/v1/transcribe:streaming")
    async def streaming(websocket: WebSocket) -> None:
        """Transcribe live speech, in RTZR's messages."""
        try:
            asked = read_query(websocket.query_params, gateway.settings.models)
            words = await gateway.stream_keywords(websocket, read_keywords(asked.keywords))
            session = _Session(gateway, websocket, asked, words)
            await session.prepare()
        except ApiError as error:
            await websocket.send_denial_response(error.response(websocket.url.path))
            return
        await websocket.accept()
        await gateway.sockets.serve(websocket, session.run)

    return router


class _Session:
    """What one WebSocket says and hears."""

    def __init__(
        self, gateway: Gateway, websocket: WebSocket, asked: RtzrOptions, keywords: tuple[str, ...]
    ) -> None:
        self._websocket, self._asked, self._sentence = websocket, asked, 0
        self._speech = gateway.speech(websocket, self._take)
        self._speech.options = StreamOptions(asked.rules, keywords)
        self._speech.written = finished_by(asked.switches, gateway.settings.written)

    async def prepare(self) -> None:
        """Find out whether the encoding can be decoded here. ApiError when it cannot."""
        await self._speech.use(self._asked.encoding, self._asked.rate)

    async def run(self, inbox: Inbox) -> None:
        """Serve until the client ends; cancelled when it leaves."""
        code, reason = _DONE, ""
        async with self._speech:
            try:
                await self._listen(inbox)
                code = RESTART if inbox.stopping else _DONE
            except TimeoutError:
                code, reason = _REFUSED, f"no frame came for {_IDLE_SECONDS:g} s"
            except ApiError as error:
                code = _LATER if error.status in (429, 503) else _FAILED if error.status >= 500 else _REFUSED
                body = rtzr_errors.body(error.status, error.message, error.code)
                reason = f"{body['code']}: {error.message}"
        await self._websocket.close(code, reason.encode()[:_REASON_BYTES].decode(errors="ignore"))

    async def _listen(self, inbox: Inbox) -> None:
        clock = asyncio.get_running_loop().time
        async with asyncio.timeout(None) as idle:
            while True:
                idle.reschedule(clock() + _IDLE_SECONDS)
                message = await inbox.get()
                idle.reschedule(None)
                if isinstance(message, bytes):
                    await self._speech.send(message)
                elif message is None or message.strip() == "EOS":
                    await self._speech.end()
                    return
                elif _kind(message) == "Finalize":
                    await self._speech.end_utterance()
                else:
                    sentence = 'a text frame is EOS or {"type": "Finalize"}: audio goes in binary ones'
                    raise ApiError(400, sentence)

    async def _take(self, result: Result) -> None:
        if not result.text:
            return
        best: dict[str, Any] = {"text": result.text, "confidence": round(result.confidence, 4)}
        if result.is_final:
            best["words"] = [
                {
                    "text": word.text,
                    "start_at": word.start_ms,
                    "duration": word.end_ms - word.start_ms,
                    "confidence": round(word.confidence, 4),
                }
                for word in result.words
            ]
        answer: dict[str, Any] = {
            "seq": self._sentence,
            "start_at": result.start_ms,
            "duration": result.end_ms - result.start_ms,
            "final": result.is_final,
            "alternatives": [best],
        }
        if result.is_final and self._speech.version:
            answer["model_version"] = self._speech.version
        self._sentence += result.is_final
        await tell(self._websocket, answer)


def _kind(message: str) -> str | None:
    try:
        found = read_json(message)
    except ValueError:
        return None
    return str(found.get("type")) if isinstance(found, dict) else None
