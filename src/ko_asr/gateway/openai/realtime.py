"""OpenAI's Realtime API for transcription: WS /v1/realtime."""

from fastapi import APIRouter
from starlette.websockets import WebSocket

from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.openai.options import check_model
from ko_asr.gateway.openai.realtime_config import SessionConfig
from ko_asr.gateway.openai.realtime_session import RealtimeSession

SUBPROTOCOL = "realtime"


def routes(gateway: Gateway) -> APIRouter:
    """The routes of ``gateway``."""
    router = APIRouter()

    @router.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        """Transcribe live speech, in OpenAI's events."""
        try:
            _check(websocket, gateway)
        except ApiError as error:
            await websocket.send_denial_response(error.response(websocket.url.path))
            return
        offered = websocket.scope["subprotocols"]
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        session = RealtimeSession(gateway, websocket, SessionConfig())
        await gateway.sockets.serve(websocket, session.run)

    return router


def _check(websocket: WebSocket, gateway: Gateway) -> None:
    """Raise ApiError unless the address asks for a transcription by a model that is here, or by any."""
    query = websocket.query_params
    if (intent := query.get("intent", "transcription")) != "transcription":
        sentence = f"intent is {intent[:60]!r}: this gateway has transcription only"
        raise ApiError(400, sentence, param="intent", code="invalid_value")
    if "model" in query:
        check_model(query["model"], gateway.settings)
