"""The form of a new job, checked."""

import hashlib
import json

from fastapi import Request

from ko_asr.gateway.audio.folders import RequestFolder
from ko_asr.gateway.audio.upload import Form
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs.download import Download
from ko_asr.gateway.jobs.safe_http import SafeHttp
from ko_asr.gateway.jobs.store import NewJob
from ko_asr.gateway.options import read_options
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.gateway.strict_json import read_json

_OWN = ("url", "callback_url", "metadata")
_AT_READING = ("response_format", "timestamp_granularities", "timestamp_granularities[]", "stream")
_METADATA = (16, 64, 512)  # pairs, characters of a name, of a value: OpenAI's
_METADATA_BYTES = 8 << 10  # of a webhook, which should be under 20 kB
_KEY = 255


def read_form(form: Form, settings: Settings) -> dict[str, list[str]]:
    """The fields that say how to recognise. ApiError for one that cannot be honoured."""
    for name in _AT_READING:
        if form.many(name):
            raise ApiError(400, f"{name} belongs to GET /v1/jobs/ID/result", param=name)
    fields = {name: values for name, values in form.fields.items() if name not in _OWN}
    fields.setdefault("model", [settings.models[0]])
    read_options(Form(fields), settings)
    return fields


def new_job(
    form: Form,
    owner: str,
    settings: Settings,
    http: SafeHttp,
    download: Download,
    key: str | None = None,
    fingerprint: str = "",
) -> NewJob:
    """What ``form`` asks for; its file is not in the store yet. ApiError."""
    url, callback = form.one("url"), form.one("callback_url")
    if (url is None) == (form.file_bytes is None):
        raise ApiError(400, "send either file, as curl -F file=@speech.wav does, or url", param="file")
    return NewJob(
        owner=owner,
        fields=read_form(form, settings),
        metadata=_metadata(form.one("metadata")),
        url=url and download.check(url),
        callback_url=callback and http.check(callback, "callback_url"),
        key=key,
        fingerprint=fingerprint,
        publish=settings.jobs.broker is not None,
    )


def idempotency_key(request: Request) -> str | None:
    """The value of Idempotency-Key. ApiError for one that is none."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= _KEY:
        raise ApiError(400, f"Idempotency-Key must have 1 to {_KEY} characters", param="Idempotency-Key")
    return key


def fingerprint(form: Form, folder: RequestFolder) -> str:
    """A hash of all that was asked for; reads the file."""
    digest = hashlib.sha256(json.dumps(form.fields, sort_keys=True).encode())
    if folder.content is not None:
        digest.update(hashlib.sha256(folder.content).digest())
    elif form.file_bytes is not None:
        with folder.upload.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _metadata(text: str | None) -> dict[str, str]:
    most, name_length, value_length = _METADATA
    try:
        found = read_json(text or "{}")
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ApiError(400, "metadata must be a JSON object of strings", param="metadata")
    if len((text or "").encode()) > _METADATA_BYTES:
        raise ApiError(400, f"metadata is larger than {_METADATA_BYTES} bytes", param="metadata")
    longest = max((len(value) for value in found.values()), default=0)
    if len(found) > most or any(len(name) > name_length for name in found) or longest > value_length:
        sentence = f"metadata has at most {most} pairs, of {name_length} and {value_length} characters"
        raise ApiError(400, sentence, param="metadata")
    return found
