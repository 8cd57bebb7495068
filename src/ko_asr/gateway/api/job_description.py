"""The shapes of jobs, for the OpenAPI description; `options` and `job` are what reads and makes them."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from ko_asr.gateway.api.description import File, Written

_KEY = "A retry with the same key gets the same job, another request with it 422."
IDEMPOTENCY_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "description": _KEY,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
        }
    ]
}


class JobForm(BaseModel):
    """Either a file or an address, and what /v1/audio/transcriptions takes."""

    file: File | None = Field(None, description="The audio, with any file name.")
    url: str | None = Field(None, description="Where it can be fetched, at a host that is allowed.")
    callback_url: str | None = Field(None, description="Gets job.completed, signed (Standard Webhooks).")
    metadata: str | None = Field(None, description="A JSON object of strings, which comes back.")
    model: str | None = Field(None, description="A name of GET /v1/models.")
    language: Literal["ko"] | None = None
    prompt: str | None = Field(None, description="Its words are favoured.")
    keywords: list[str] | None = Field(None, alias="keywords[]", description="Words to favour.")
    written: Written = None
    channels: Literal["mix", "separate"] | None = None


class JobError(BaseModel):
    """Why a job failed."""

    code: str | None
    message: str


class JobShape(BaseModel):
    """How far a job is; times in epoch seconds, progress in per cent."""

    id: str
    object: Literal["job"]
    status: Literal["queued", "running", "completed", "failed", "cancelled"]
    created_at: int
    started_at: int | None
    ended_at: int | None
    expires_at: int | None
    progress: int
    audio_seconds: float | None
    model: str
    callback_url: str | None
    metadata: dict[str, str]
    error: JobError | None


class JobList(BaseModel):
    """A page of jobs, newest first."""

    object: Literal["list"]
    data: list[JobShape]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedJob(BaseModel):
    """What is left of a job."""

    id: str
    object: Literal["job"]
    status: str
    deleted: bool
