"""RTZR's POST /v1/authenticate: a key's id and secret in, an access token of six hours out."""

import time
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from pydantic import BaseModel

from ko_asr.gateway.access.tokens import RTZR
from ko_asr.gateway.api.description import answers, form
from ko_asr.gateway.api.small_body import read_body
from ko_asr.gateway.caller import EVERYBODY
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway

_SECONDS = 6 * 3600
_MOST_BYTES = 4096


class _Form(BaseModel):
    client_id: str
    client_secret: str


class _Answer(BaseModel):
    access_token: str
    expire_at: int


def routes(gateway: Gateway) -> APIRouter:
    """The route of ``gateway``. Without keys it takes any pair, and its tokens are taken but not needed."""
    router = APIRouter()

    @router.post(
        "/rtzr/v1/authenticate",
        openapi_extra=form(_Form, "application/x-www-form-urlencoded"),
        responses=answers(_Answer, errors=(401,)),
    )
    async def authenticate(request: Request) -> dict[str, str | int]:
        """A token for a key, which goes into the header as `Authorization: bearer TOKEN`."""
        form = parse_qs((await read_body(request, _MOST_BYTES)).decode(errors="replace"))
        pair = [form.get(name, [""])[0] for name in ("client_id", "client_secret")]
        if not all(pair):
            raise ApiError(400, "send client_id and client_secret as a form", param="client_id")
        subject = EVERYBODY.name
        if gateway.accounts is not None:
            subject = (await gateway.accounts.of_key(*pair)).key.id
        token = gateway.tokens.issue(RTZR, subject, _SECONDS)
        return {"access_token": token, "expire_at": int(time.time()) + _SECONDS}

    return router
