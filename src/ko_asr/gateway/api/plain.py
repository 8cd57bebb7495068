"""A plain route: POST /v1/transcribe, a file in, text and confidence back."""

import time
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from ko_asr.gateway.api.description import File, answers, form
from ko_asr.gateway.audio.wanted import read_wanted
from ko_asr.gateway.disconnect import while_connected
from ko_asr.gateway.engine.channels import channels_of, text_of
from ko_asr.gateway.engine.keywords import read_keywords
from ko_asr.gateway.engine.long_audio import confidence
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
            form = await gateway.receive(request, folder, FILE)
            wanted, sound = read_keywords(form.many("keywords")), read_wanted(form)
            async with while_connected(request):
                keywords = await gateway.keywords(request, wanted)
                audio = await gateway.decode(request, folder, FILE, sound)
                found = await gateway.transcribe(request, audio, keywords)
        finally:
            await folder.remove()
        heard = [part for channel in found for part in channel]
        took = round(1000 * (time.perf_counter() - started), 1)
        answer = {
            "text": text_of(found, audio[0].seconds),
            "confidence": round(confidence(heard), 4),
            "processing_time_ms": took,
        }
        return answer | channels_of(found) if sound.separate else answer

    return router
