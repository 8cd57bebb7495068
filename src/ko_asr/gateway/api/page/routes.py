"""The page's files, its settings, and what a browser may do with them."""

import hashlib
from importlib import resources
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
# Nothing comes from elsewhere and goes elsewhere; what is played is what the user gave the page (blob:).
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",  # a browser asks each time, and is answered 304: scripts fit each other
}


class _Asset:
    """One file of the page."""

    def __init__(self, name: str, content: bytes) -> None:
        suffix = name[name.rindex(".") :]
        self._content, self._type = content, f"{_TYPES[suffix]}; charset=utf-8"
        self._tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def response(self, request: Request) -> Response:
        """The file, or 304 to a browser that has it."""
        headers = {**_HEADERS, "etag": self._tag}
        if self._tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self._content, media_type=self._type, headers=headers)


def routes(gateway: Gateway) -> APIRouter:
    """The routes of the page; they need no key, as nothing secret is in them."""
    router, assets, settings = APIRouter(include_in_schema=False), _assets(), gateway.settings

    @router.get("/")
    async def index(request: Request) -> Response:
        """The page."""
        return assets["index.html"].response(request)

    @router.get("/page/settings.json")
    async def page_settings() -> dict[str, Any]:
        """What this gateway offers."""
        return {
            "model": settings.models[0],
            "max_upload": settings.max_upload,
            "written": settings.written is not None,
            "corrections": settings.corrections.folder is not None,
        }

    @router.get("/page/{name}")
    async def asset(name: str, request: Request) -> Response:
        """A script, style or picture of the page."""
        if name not in assets:
            raise ApiError(404, f"the page has no file {name[:60]!r}")
        return assets[name].response(request)

    return router


def _assets() -> dict[str, _Asset]:
    folder = resources.files("ko_asr.gateway.api.page") / "static"
    return {file.name: _Asset(file.name, file.read_bytes()) for file in folder.iterdir()}
