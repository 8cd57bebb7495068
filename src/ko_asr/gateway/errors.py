"""Refusals in OpenAI's shape, of which its SDKs make exceptions: {"error": {message, type, param, code}}.

Under /rtzr they have RTZR's.
"""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from ko_asr.gateway import rtzr_errors

LOG = logging.getLogger("ko_asr.gateway")
QUOTA = "insufficient_quota"  # the code where waiting a little does not help
INVALID, SERVER = "invalid_request_error", "server_error"
CLIENT_GONE = 499  # nginx's status for a client that did not wait; nobody reads it but logs and metrics


class ApiError(Exception):
    """A refusal: HTTP ``status`` and one sentence; ``param`` names the field, ``code`` the kind.

    ``retry_after`` in seconds asks the client to come again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    def body(self) -> dict[str, dict[str, str | None]]:
        """The JSON of the answer."""
        kind = SERVER if self.status >= 500 else "rate_limit_error" if self.status == 429 else INVALID
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, path: str) -> JSONResponse:
        """The answer to a request of ``path``, in the shape of the API that it belongs to."""
        if rtzr_errors.is_rtzr(path):
            body: dict[str, Any] = rtzr_errors.body(self.status, self.message, self.code)
        else:
            body = self.body()
        return JSONResponse(body, self.status, self._headers())

    def _headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
            headers["retry-after-ms"] = str(1000 * self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.code == QUOTA:  # OpenAI's SDKs would send the file again, twice
            headers["x-should-retry"] = "false"
        return headers


def add_handlers(app: FastAPI) -> None:
    """Let every error of ``app`` leave in one shape."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _disconnect)
    app.add_exception_handler(SQLAlchemyError, _database)
    app.add_exception_handler(Exception, _unexpected)


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response(request.url.path)


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = f"{request.method} {request.url.path[:100]}"
    sentences = {404: f"there is no {path} here: see docs/gateway.md", 405: f"{path} is not offered"}
    response = ApiError(error.status_code, sentences.get(error.status_code, str(error.detail))).response(
        request.url.path
    )
    response.headers.update(error.headers or {})
    return response


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = str(first["loc"][-1])
    return ApiError(400, f"{where}: {first['msg']}", param=where).response(request.url.path)


async def _disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _database(request: Request, error: Exception) -> Response:
    LOG.error("the database fails: %s", str(error).splitlines()[0])
    if "is full" in str(error) or "disk I/O error" in str(error):  # what SQLite says of a full disk
        refusal = ApiError(
            507, "the gateway's disk is full: try again later", code="disk_full", retry_after=30
        )
    else:
        sentence = "the gateway's database does not answer: try again later"
        refusal = ApiError(503, sentence, code="database", retry_after=5)
    return refusal.response(request.url.path)


async def _unexpected(request: Request, error: Exception) -> Response:
    return ApiError(500, "the gateway failed; its log has the reason under this x-request-id").response(
        request.url.path
    )
