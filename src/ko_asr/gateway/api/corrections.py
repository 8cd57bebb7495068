"""POST /v1/corrections, DELETE /v1/corrections/{id}: a clip and what was really said in it, with consent."""

import asyncio
import re
import unicodedata

from fastapi import APIRouter, Request
from starlette.responses import Response

from ko_asr.gateway.audio.upload import Form, drain
from ko_asr.gateway.audio.wanted import Wanted
from ko_asr.gateway.corrections.store import Corrections
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway

FILE = "audio"
TOKEN = "x-correction-token"
_LONGEST = 60.0  # seconds: an utterance ends after 12
_MOST_LETTERS = 1000
_MODEL = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{32}")


def routes(gateway: Gateway) -> APIRouter:
    """The routes; they refuse everything where no folder is given."""
    router, settings = APIRouter(), gateway.settings
    options = settings.corrections
    store = Corrections(options.folder, options.most_bytes) if options.folder else None

    @router.post("/v1/corrections", status_code=201)
    async def correct(request: Request) -> dict[str, str]:
        """Store one clip and its text."""
        if store is None:
            await drain(request, settings.max_upload)
            raise _off()
        folder = await gateway.request_folder(request)
        try:
            entry = _entry(await gateway.receive(request, folder, FILE))
            [audio] = await gateway.decode(request, folder, FILE, Wanted())
            if audio.seconds > _LONGEST:
                raise ApiError(413, f"the clip is longer than {_LONGEST:g} s: cut it", param=FILE)
            samples = await asyncio.to_thread(audio.read)
            name, token = await asyncio.to_thread(store.add, samples, entry)
        finally:
            await folder.remove()
        return {"id": name, "token": token}

    @router.delete("/v1/corrections/{name}", status_code=204)
    async def withdraw(name: str, request: Request) -> Response:
        """Remove a clip and its text, for who has the token that came with it."""
        if store is None:
            raise _off()
        if not _ID.fullmatch(name):
            raise ApiError(404, "there is no such correction, or the token is not its own")
        await asyncio.to_thread(store.remove, name, request.headers.get(TOKEN, ""))
        return Response(status_code=204)

    return router


def _off() -> ApiError:
    return ApiError(404, "this gateway stores no corrections: it was started without --corrections")


def _entry(form: Form) -> dict[str, str]:
    """What the manifest says of the clip. ApiError for what is missing or not to be stored."""
    if form.one("consent") != "true":
        sentence = "nothing is stored without consent=true from the person who speaks in the clip"
        raise ApiError(400, sentence, param="consent", code="consent_missing")
    text, original = _text(form, "text"), _text(form, "original")
    if not text:
        raise ApiError(400, "text is missing: what was really said?", param="text")
    model = form.one("model") or ""
    if not _MODEL.fullmatch(model):
        raise ApiError(400, "model is the name of the model that misheard", param="model")
    return {"text": text, "original": original, "model": model}


def _text(form: Form, param: str) -> str:
    """One line of NFC without control characters."""
    text = " ".join(unicodedata.normalize("NFC", form.one(param) or "").split())
    if len(text) > _MOST_LETTERS:
        raise ApiError(
            400, f"{param} has more than {_MOST_LETTERS} letters: correct one utterance", param=param
        )
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Co", "Cn") for letter in text):
        raise ApiError(400, f"{param} has characters that are no text", param=param)
    return text
