"""A plain route: POST /v1/transcribe, a file in, text and confidence back."""

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from ko_asr.gateway.description import File, answers, form
from ko_asr.gateway.engine.long_audio import confidence, joined_text
from ko_asr.gateway.gateway import Gateway

FILE = "audio"


class _Form(BaseModel):
    audio: File


class _Answer(BaseModel):
    text: str
    confidence: float
    processing_time_ms: float


def routes(gateway: Gateway) -> APIRouter:
    """The route of ``gateway``."""
    router = APIRouter()

    @router.post("/v1/transcribe", openapi_extra=form(_Form), responses=answers(_Answer))
    async def transcribe(request: Request) -> dict[str, Any]:
        """Transcribe one file."""
        started, folder = time.perf_counter(), await gateway.request_folder(request)
        try:
            await gateway.receive(request, folder, FILE)
            audio = await gateway.decode(request, folder, FILE)
            found = await gateway.transcribe(request, audio)
        finally:
            await folder.remove()
        return {
            "text": joined_text(found),
            "confidence": round(confidence(found), 4),
            "processing_time_ms": round(1000 * (time.perf_counter() - started), 1),
        }

    return router
