"""A plain route: POST /v1/transcribe, a file in, text and confidence back."""

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from ko_asr.gateway.api.description import File, Written, answers, form
from ko_asr.gateway.audio.wanted import read_wanted
from ko_asr.gateway.disconnect import while_connected
from ko_asr.gateway.engine.keywords import read_keywords
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.written.request import asked, read_written

FILE = "audio"


class _Form(BaseModel):
    audio: File
    written: Written = None


class _Answer(BaseModel):
    text: str
    written: str | None = None
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
            form = await gateway.receive(request, folder, FILE)
            wanted, sound = read_keywords(form.many("keywords")), read_wanted(form)
            value = read_written(form)
            written = asked(value, gateway.settings.written) if value is not None else None
            async with while_connected(request):
                keywords = await gateway.keywords(request, wanted)
                audio = await gateway.decode(request, folder, FILE, sound)
                heard = await gateway.transcribe(request, audio, keywords, written)
        finally:
            await folder.remove()
        took = round(1000 * (time.perf_counter() - started), 1)
        figures = {"confidence": round(heard.confidence, 4), "processing_time_ms": took}
        return heard.texts(sound.separate) | figures

    return router
