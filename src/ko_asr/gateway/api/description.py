"""The OpenAPI description: what routes say of themselves, and what holds for all.

Forms are read and answers are made by hand, so a route names the shape of both: `form`, `answers`. What every
route may refuse, who may call it and where it is listed is added by `describe`.
"""

from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from ko_asr.gateway.access.admission import METRICS, is_open
from ko_asr.gateway.rtzr_errors import is_rtzr

File = Annotated[str, Field(json_schema_extra={"format": "binary"})]
Written = Annotated[
    str | None,
    Field(description="The written form too: true, or a JSON object of its options."),
]
TEXTS = ("text/plain", "application/x-subrip", "text/vtt")
_TAGS = {  # by the beginning of a path; the first that fits
    "/v1/audio": "OpenAI",
    "/v1/models": "OpenAI",
    "/v1/realtime": "OpenAI",
    "/rtzr": "RTZR",
    "/v1/jobs": "Jobs",
    "/v1/transcribe": "Plain",
    "/v1/corrections": "Page",
    "/": "Operation",
}
_SAYS = {
    400: "A field that is wrong or missing, or audio that cannot be used.",
    401: "No key, or a wrong, revoked or expired one.",
    403: "Not for this key, or not for this page or name.",
    404: "There is no such thing.",
    409: "Not in this state.",
    408: "The upload stood still.",
    413: "Too large, or too long.",
    415: "No form, or a format of audio that cannot be read.",
    422: "This Idempotency-Key was used for another request.",
    429: "A limit of the key, or the gateway is full.",
    500: "The gateway failed.",
    503: "The recogniser does not answer, or late.",
    507: "The disk is full.",
}
_WITH_BODY = (400, 408, 413, 415, 429, 503, 507)
_COMES_AGAIN = (429, 503, 507)
_METHODS = ("get", "post", "put", "patch", "delete")
_DESCRIPTION = "Korean speech recognition. Live speech: WS /v1/realtime and WS /rtzr/v1/transcribe:streaming."


class _OpenAIError(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    """A refusal in OpenAI's shape."""

    error: _OpenAIError


class RtzrError(BaseModel):
    """A refusal in RTZR's shape."""

    code: str
    msg: str


def form(
    fields: type[BaseModel], kind: str = "multipart/form-data", **choices: tuple[str, ...]
) -> dict[str, Any]:
    """`openapi_extra` of a route that reads a body with these ``fields``; ``choices`` are values of some."""
    schema = fields.model_json_schema()
    schema = _plain(schema, schema.pop("$defs", {}))
    for name, values in choices.items():
        schema["properties"][name]["enum"] = list(values)
    return {"requestBody": {"required": True, "content": {kind: {"schema": schema}}}}


def _plain(schema: Any, definitions: dict[str, Any]) -> Any:
    """A schema that needs no other, and without null: a form leaves out what it has not."""
    if isinstance(schema, list):
        return [_plain(item, definitions) for item in schema if item != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _plain(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    found = {name: _plain(value, definitions) for name, value in schema.items() if value is not None}
    if len(found.get("anyOf", ())) == 1:
        found |= found.pop("anyOf")[0]
    return found


def answers(model: Any, *texts: str, status: int = 200, errors: tuple[int, ...] = ()) -> dict[int | str, Any]:
    """`responses` of a route: JSON of ``model``, or ``texts``, media types; further ``errors``."""
    content = {kind: {"schema": {"type": "string"}} for kind in texts}
    return {status: {"model": model, "content": content}, **{error: {"model": Error} for error in errors}}


def describe(app: FastAPI, keys: bool) -> None:
    """Let ``app`` describe itself; with ``keys`` all routes want one but those that are open."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(app, keys)
        return app.openapi_schema

    # FastAPI's documented way to change the description.
    app.openapi = openapi  # type: ignore[method-assign]


def _complete(app: FastAPI, keys: bool) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, routes=app.routes, description=_DESCRIPTION)
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):  # they are answered with 400
        schemas.pop(name, None)
    for model in (_OpenAIError, Error, RtzrError):
        schemas[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas[model.__name__].pop("$defs", None)
    if keys:
        found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in found["paths"].items():
        for method in set(operations).intersection(_METHODS):
            _complete_operation(path, method, operations[method], keys)
    found["tags"] = [{"name": name} for name in dict.fromkeys(_TAGS.values())]
    return found


def _complete_operation(path: str, method: str, operation: dict[str, Any], keys: bool) -> None:
    operation["tags"] = [next(tag for begin, tag in _TAGS.items() if path.startswith(begin))]
    first, _, rest = operation.pop("description", operation["summary"]).partition("\n")
    operation["summary"] = first
    if rest.strip():
        operation["description"] = rest.strip()
    locked = keys and not is_open(path, method.upper())
    if locked:
        operation["security"] = [{"key": []}, {}] if path == METRICS else [{"key": []}]
    said = operation["responses"]
    if "HTTPValidationError" in str(said.get("422")):
        del said["422"]
    for status in _statuses(path, operation, locked):
        said.setdefault(str(status), {})
    for status, response in said.items():
        if int(status) >= 400:
            _complete_refusal(int(status), response, path)


def _statuses(path: str, operation: dict[str, Any], locked: bool) -> tuple[int, ...]:
    """What the operation may refuse with."""
    found: tuple[int, ...] = (401, 403, 500) if locked else (403, 500)
    if "requestBody" in operation:
        found += _WITH_BODY
    if operation.get("parameters"):
        found += (400,)
    return (*found, 404) if "{" in path else found


def _complete_refusal(status: int, response: dict[str, Any], path: str) -> None:
    response["description"] = _SAYS.get(status) or response.get("description", "A refusal.")
    name = RtzrError.__name__ if is_rtzr(path) else Error.__name__
    response["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    if status in _COMES_AGAIN:
        seconds = {"description": "Seconds to wait.", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": seconds}
