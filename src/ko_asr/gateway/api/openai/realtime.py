"""OpenAI's Realtime API for transcription: WS /v1/realtime, POST /v1/realtime/client_secrets."""

import secrets
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.websockets import WebSocket

from ko_asr.gateway.access.credentials import credential
from ko_asr.gateway.access.tokens import REALTIME
from ko_asr.gateway.api.description import answers, form
from ko_asr.gateway.api.openai.realtime_config import SessionConfig
from ko_asr.gateway.api.openai.realtime_session import RealtimeSession, session_object, stream_options
from ko_asr.gateway.api.small_body import read_body
from ko_asr.gateway.caller import caller_of
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.options import check_model

SUBPROTOCOL = "realtime"
_SECRET = "ek_"  # how a client secret begins
_BODY_BYTES = 64 << 10
_MOST_LETTERS = 6000  # of a secret, which has to fit into one line of a header


class _ExpiresAfter(BaseModel):
    anchor: Literal["created_at"] = "created_at"
    seconds: Annotated[int, Field(ge=10, le=7200)] = 600


class _SecretRequest(BaseModel):
    expires_after: _ExpiresAfter | None = None
    session: dict[str, Any] | None = None


class _Secret(BaseModel):
    value: str
    expires_at: int
    session: dict[str, Any]


def routes(gateway: Gateway) -> APIRouter:
    """The routes of ``gateway``."""
    router = APIRouter()

    @router.post(
        "/v1/realtime/client_secrets",
        openapi_extra=form(_SecretRequest, "application/json"),
        responses=answers(_Secret),
    )
    async def client_secrets(request: Request) -> dict[str, Any]:
        """A short-lived secret for a browser, with the configuration that its session begins with."""
        asked = _asked(await read_body(request, _BODY_BYTES))
        session, seconds = asked.session or {}, (asked.expires_after or _ExpiresAfter()).seconds
        config = SessionConfig().updated(session, gateway.settings)
        value = gateway.tokens.issue(REALTIME, caller_of(request).name, seconds, session=session)
        if len(value) > _MOST_LETTERS:
            sentence = "the session is too large for a secret: send its keywords with session.update"
            raise ApiError(400, sentence, param="session")
        shown = session_object(f"sess_{secrets.token_hex(12)}", config)
        return {"value": value, "expires_at": int(time.time()) + seconds, "session": shown}

    @router.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        """Transcribe live speech, in OpenAI's events."""
        try:
            _check(websocket, gateway)
            config = _config(websocket, gateway)
            options = await stream_options(gateway, websocket, config)
        except ApiError as error:
            await websocket.send_denial_response(error.response(websocket.url.path))
            return
        offered = websocket.scope["subprotocols"]
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        session = RealtimeSession(gateway, websocket, config, options)
        await gateway.sockets.serve(websocket, session.run)

    return router


def _asked(body: bytes) -> _SecretRequest:
    try:
        return _SecretRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise ApiError(400, f"{where}: {first['msg']}", param=where) from None


def _check(websocket: WebSocket, gateway: Gateway) -> None:
    """Raise ApiError unless the address asks for a transcription by a model that is here, or by any."""
    query = websocket.query_params
    if (intent := query.get("intent", "transcription")) != "transcription":
        sentence = f"intent is {intent[:60]!r}: this gateway has transcription only"
        raise ApiError(400, sentence, param="intent", code="invalid_value")
    if "model" in query:
        check_model(query["model"], gateway.settings)


def _config(websocket: WebSocket, gateway: Gateway) -> SessionConfig:
    """What the session begins with: that of its client secret, if it has one. ApiError for a bad secret."""
    shown = credential(websocket) or ""
    if not shown.startswith(_SECRET):
        return SessionConfig()
    session = gateway.tokens.claims(REALTIME, shown).get("session") or {}
    return SessionConfig().updated(session, gateway.settings)
