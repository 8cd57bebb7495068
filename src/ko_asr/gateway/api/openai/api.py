"""OpenAI's routes: POST /v1/audio/transcriptions, GET /v1/models."""

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ko_asr.gateway.api.description import answers as answers_of
from ko_asr.gateway.api.description import form
from ko_asr.gateway.api.openai import answers
from ko_asr.gateway.api.openai.description import TRANSCRIPTIONS, Model, Models, TranscriptionForm
from ko_asr.gateway.audio.decode import Decoded
from ko_asr.gateway.audio.folders import RequestFolder
from ko_asr.gateway.caller import caller_of
from ko_asr.gateway.disconnect import while_connected
from ko_asr.gateway.engine.long_audio import Part, parts
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.options import TranscriptionOptions, check_model, read_options

FILE = "file"


class EventStream(StreamingResponse):
    """Server-sent events of one request; its folder goes when they end, however they do."""

    def __init__(self, events: AsyncIterator[str], folder: RequestFolder) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._folder.remove()


def routes(gateway: Gateway) -> APIRouter:
    """The routes of ``gateway``."""
    router, settings, started = APIRouter(), gateway.settings, int(time.time())

    @router.post(
        "/v1/audio/transcriptions",
        response_model=None,
        openapi_extra=form(TranscriptionForm, model=settings.models),
        responses=TRANSCRIPTIONS,
    )
    async def transcriptions(request: Request) -> Response:
        """Transcribe one file, in OpenAI's shapes."""
        folder, streaming = await gateway.request_folder(request), False
        try:
            form = await gateway.receive(request, folder, FILE)
            options = read_options(form, settings)
            async with while_connected(request):
                keywords = await gateway.keywords(request, options.keywords)
                audio = await gateway.decode(request, folder, FILE, options.audio)
                if not options.stream:
                    heard = await gateway.transcribe(request, audio, keywords, options.written)
                    return answers.answer(heard, options)
                source = parts(audio[0], gateway.recogniser, settings, caller_of(request), keywords)
                response = EventStream(await _events(_texts(source, gateway, options), audio[0]), folder)
            streaming = True
            return response
        finally:
            if not streaming:
                await folder.remove()

    def model(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": started, "owned_by": "ko-asr"}

    @router.get("/v1/models", responses=answers_of(Models))
    async def models() -> dict[str, Any]:
        """The model under all of its names."""
        return {"object": "list", "data": [model(name) for name in settings.models]}

    @router.get("/v1/models/{name}", responses=answers_of(Model))
    async def one_model(name: str) -> dict[str, Any]:
        """The model by one of its names."""
        check_model(name, settings)
        return model(name)

    return router


def _texts(
    source: AsyncGenerator[Part, None], gateway: Gateway, options: TranscriptionOptions
) -> AsyncGenerator[str, None]:
    """The text of all parts as it comes, in the form that was asked for: events have room for one."""
    if options.written:
        return gateway.finishing.as_it_comes(source, options.written.options)
    return _spoken(source)


async def _spoken(source: AsyncGenerator[Part, None]) -> AsyncGenerator[str, None]:
    async with aclosing(source) as parts:
        async for part in parts:
            yield part.text


async def _events(source: AsyncGenerator[str, None], audio: Decoded) -> AsyncIterator[str]:
    """The events of ``audio``, once the first text is there: what fails before it has a status of its own."""
    return _event_texts(source, await anext(source, None), audio)


async def _event_texts(
    source: AsyncGenerator[str, None], more: str | None, audio: Decoded
) -> AsyncIterator[str]:
    text = ""
    async with aclosing(source):
        try:
            while more is not None:
                if more:
                    more = f" {more}" if text else more
                    text += more
                    yield answers.delta(more)
                more = await anext(source, None)
            yield answers.done(text, audio.seconds)
        except ApiError as error:
            yield answers.event(error.body())
