"""RTZR's transcription of files: POST /rtzr/v1/transcribe, and GET until it is done. They are jobs."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from ko_asr.gateway import rtzr_errors
from ko_asr.gateway.api.description import File, answers, form
from ko_asr.gateway.api.jobs import FILE, check_keywords, finished, receive_job, submit
from ko_asr.gateway.api.rtzr.transcribe_options import CONFIG, PARAGRAPH, WORD_TIMES, read_config
from ko_asr.gateway.api.rtzr.written import shown
from ko_asr.gateway.caller import caller_of
from ko_asr.gateway.engine.heard import Heard
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs import store
from ko_asr.gateway.jobs.job import Job
from ko_asr.gateway.jobs.room import Jobs
from ko_asr.gateway.jobs.store import NewJob
from ko_asr.gateway.jobs.tables import COMPLETED, FAILED
from ko_asr.gateway.options import read_options
from ko_asr.runtime.results import Result


class _Form(BaseModel):
    file: File
    config: str | None = None


class _Made(BaseModel):
    id: str


class _State(BaseModel):
    id: str
    status: str
    results: dict[str, Any] | None = None
    error: dict[str, str] | None = None


def routes(jobs: Jobs) -> APIRouter:
    """The routes over ``jobs``."""
    router, gateway = APIRouter(prefix=f"{rtzr_errors.PREFIX}/v1"), jobs.gateway

    @router.post("/transcribe", openapi_extra=form(_Form), responses=answers(_Made, errors=()))
    async def transcribe(request: Request) -> dict[str, str]:
        """Take a recording, to be asked for with its id."""
        folder = await gateway.request_folder(request)
        try:
            received = await receive_job(request, folder, jobs)
            if received.file_bytes is None:
                raise ApiError(400, "file is missing: send it as a file part", param=FILE)
            fields = read_config(received.one(CONFIG), gateway.settings.models)
            new = NewJob(caller_of(request).name, fields, {}, publish=jobs.settings.broker is not None)
            await check_keywords(request, gateway, new)
            job = await submit(jobs, new, folder)
        finally:
            await folder.remove()
        return {"id": job.id}

    @router.get("/transcribe/{job}", response_model=None, responses=answers(_State, errors=(404,)))
    async def state(request: Request, job: str) -> dict[str, Any]:
        """How far it is, or the text."""
        owner = caller_of(request).name
        found = await jobs.database.run(store.get(job, owner))
        if found.status == FAILED:
            return {"id": job, "status": "failed", "error": _error(found)}
        if found.status != COMPLETED:
            return {"id": job, "status": "transcribing"}
        found, heard = await finished(jobs, job, owner)
        options = read_options(found.form, gateway.settings)
        heard = await gateway.finishing.finished(heard, options.written)
        return {"id": job, "status": "completed", "results": await asyncio.to_thread(_results, found, heard)}

    return router


def _error(job: Job) -> dict[str, str]:
    status = 500 if job.error_code == "worker_lost" else 400
    body = rtzr_errors.body(status, str(job.error_message), job.error_code)
    return {"code": body["code"], "message": body["msg"]}


def _results(job: Job, heard: Heard) -> dict[str, Any]:
    with_words, most = WORD_TIMES in job.fields, job.form.one(PARAGRAPH)
    found = shown(heard.utterances, int(most) if most else None)
    return {"utterances": [_utterance(result, with_words) for result in found if result.text]}


def _utterance(result: Result, with_words: bool) -> dict[str, Any]:
    """One utterance; the model tells no speakers apart, so all are speaker 0."""
    found: dict[str, Any] = {
        **_span(result.start_ms, result.end_ms),
        "msg": result.text,
        "spk": 0,
        "spk_type": "NORMAL",
        "lang": "ko",
    }
    if with_words:
        found["words"] = [{**_span(word.start_ms, word.end_ms), "text": word.text} for word in result.words]
    return found


def _span(start_ms: int, end_ms: int) -> dict[str, int]:
    return {"start_at": start_ms, "duration": end_ms - start_ms}
