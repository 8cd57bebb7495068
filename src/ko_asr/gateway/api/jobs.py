"""The routes of jobs: POST, GET, DELETE /v1/jobs, and their results."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from ko_asr.gateway.api.description import TEXTS, form
from ko_asr.gateway.api.description import answers as answers_of
from ko_asr.gateway.api.job_description import IDEMPOTENCY_KEY, DeletedJob, JobForm, JobList, JobShape
from ko_asr.gateway.api.openai import answers
from ko_asr.gateway.api.openai.description import Transcription, VerboseTranscription
from ko_asr.gateway.audio.folders import RequestFolder
from ko_asr.gateway.audio.upload import Form, drain, receive
from ko_asr.gateway.caller import caller_of
from ko_asr.gateway.engine.heard import Heard, heard_of
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.jobs import results, store
from ko_asr.gateway.jobs.form import fingerprint, idempotency_key, new_job
from ko_asr.gateway.jobs.job import Job
from ko_asr.gateway.jobs.room import Jobs
from ko_asr.gateway.jobs.store import NewJob
from ko_asr.gateway.jobs.tables import COMPLETED, ENDED, FAILED, QUEUED, RUNNING
from ko_asr.gateway.options import FORMATS, read_options

FILE = "file"
_PAGE = 100
RESULT = answers_of(VerboseTranscription | Transcription, *TEXTS, errors=(409,))
_STATUSES = (QUEUED, RUNNING, *ENDED)


def routes(jobs: Jobs) -> APIRouter:
    """The routes of ``jobs``."""
    router, gateway = APIRouter(), jobs.gateway
    keep = jobs.settings.keep_hours

    @router.post(
        "/v1/jobs",
        status_code=202,
        response_model=None,
        openapi_extra=form(JobForm, model=gateway.settings.models) | IDEMPOTENCY_KEY,
        responses=answers_of(JobShape, status=202, errors=(404, 422)),
    )
    async def create(request: Request) -> Response:
        """Take a recording, to be recognised while nobody waits."""
        folder = await gateway.request_folder(request)
        try:
            form, key = await receive_job(request, folder, jobs), idempotency_key(request)
            owner = caller_of(request).name
            new = new_job(form, owner, gateway.settings, jobs.http, jobs.download, key)
            await check_keywords(request, jobs.gateway, new)
            if key:
                new = replace(new, fingerprint=await asyncio.to_thread(fingerprint, form, folder))
            job = await submit(jobs, new, folder if form.file_bytes is not None else None)
        finally:
            await folder.remove()
        return JSONResponse(job.to_json(keep), 202, {"location": f"/v1/jobs/{job.id}"})

    @router.get("/v1/jobs", responses=answers_of(JobList, errors=(404,)))
    async def listed(
        request: Request, limit: int = 20, after: str | None = None, status: str | None = None
    ) -> dict[str, Any]:
        """The caller's jobs, newest first."""
        if not 1 <= limit <= _PAGE:
            raise ApiError(400, f"limit must be 1 to {_PAGE}", param="limit")
        if status not in (None, *_STATUSES):
            raise ApiError(400, f"status must be one of {', '.join(_STATUSES)}", param="status")
        owner = caller_of(request).name
        found, more = await jobs.database.run(store.listed(owner, limit, after, status))
        data = [job.to_json(keep) for job in found]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else dict.fromkeys(_ENDS)
        return {"object": "list", "data": data, **ends, "has_more": more}

    @router.get("/v1/jobs/{job}", responses=answers_of(JobShape))
    async def one(request: Request, job: str) -> dict[str, Any]:
        """How far a job is."""
        found = await jobs.database.run(store.get(job, caller_of(request).name))
        return found.to_json(keep)

    @router.get("/v1/jobs/{job}/result", response_model=None, responses=RESULT)
    async def result(request: Request, job: str) -> Response:
        """The transcript of a completed job, in the shapes of /v1/audio/transcriptions."""
        found, heard = await finished(jobs, job, caller_of(request).name)
        options = read_options(_reading(found, request.query_params), gateway.settings)
        heard = await gateway.finishing.finished(heard, options.written)
        return await asyncio.to_thread(answers.answer, heard, options)

    @router.delete("/v1/jobs/{job}", responses=answers_of(DeletedJob))
    async def delete(request: Request, job: str) -> dict[str, Any]:
        """Remove audio, text and job; one that has not ended is cancelled."""
        found = await jobs.cancel(job, caller_of(request).name)
        status = found.status if found.ended else "cancelled"
        return {"id": found.id, "object": "job", "status": status, "deleted": True}

    return router


_ENDS = ("first_id", "last_id")


async def receive_job(request: Request, folder: RequestFolder, jobs: Jobs) -> Form:
    """Read the form of a job, which may be larger than that of another request. ApiError, also where the
    caller has too many.
    """
    owner = caller_of(request).name
    settings = replace(jobs.gateway.settings, max_upload=jobs.settings.max_upload)
    try:
        await jobs.database.run(store.check_room(owner, jobs.settings.max_waiting))
    except ApiError:
        await drain(request, settings.max_upload)
        raise
    return await receive(request, FILE, folder, settings)


async def check_keywords(request: Request, gateway: Gateway, new: NewJob) -> None:
    """Refuse keywords that the model does not take. ApiError; not for a recogniser that is away now."""
    try:
        await gateway.keywords(request, read_options(Form(new.fields), gateway.settings).keywords)
    except ApiError as error:
        if error.status < 429:
            raise


async def submit(jobs: Jobs, new: NewJob, folder: RequestFolder | None) -> Job:
    """Put a job into the queue, with the upload in ``folder``. ApiError."""
    if new.key and (known := await jobs.database.run(store.by_key(new.owner, new.key, new.fingerprint))):
        return known
    if folder is not None:
        new = replace(new, file=jobs.files.key(store.new_id("file")))
        assert new.file is not None
        source = folder.upload if folder.content is None else folder.content
        await jobs.files.put(new.file, source)
    try:
        job, made = await jobs.database.run(store.create(new))
    except IntegrityError:  # the same key came at the same moment
        job, made = await jobs.database.run(store.create(new))
    if made:
        jobs.wake()
    elif new.file:
        await jobs.files.delete(new.file)
    return job


async def finished(jobs: Jobs, job: str, owner: str) -> tuple[Job, Heard]:
    """A completed job and what was heard. ApiError while it is none."""
    found, bodies = await jobs.database.run(store.bodies(job, owner))
    if found.status == FAILED:
        raise ApiError(409, f"the job failed: {found.error_message}", code="job_failed")
    if found.status != COMPLETED:
        sentence = f"the job is {found.status}, at {found.progress} %: ask again later"
        raise ApiError(409, sentence, code="job_not_completed", retry_after=2)
    return found, await asyncio.to_thread(_heard, found, bodies)


def _heard(job: Job, bodies: Sequence[str]) -> Heard:
    return heard_of(results.decode(bodies), job.audio_seconds or 0.0)


def _reading(job: Job, query: Mapping[str, str]) -> Form:
    """The fields of a transcription request that would have this answer."""
    kind = query.get("format", "json")
    if kind not in FORMATS:
        sentence = f"format is {kind[:60]!r}: it must be one of {', '.join(FORMATS)}"
        raise ApiError(400, sentence, param="format")
    fields = {**job.fields, "response_format": [kind]}
    if wanted := query.get("timestamp_granularities"):
        fields["timestamp_granularities"] = wanted.split(",")
    return Form(fields)
