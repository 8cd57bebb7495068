"""What callers do with jobs: make, look, list, take back. Functions of one transaction each."""

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, exists, insert, or_, select, update

from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs.job import Job
from ko_asr.gateway.jobs.tables import CANCELLED, DELIVERIES, ENDED, IDEMPOTENCY, JOBS, PARTS, QUEUED, now


@dataclass(frozen=True)
class NewJob:
    """What a request asks for; ``key`` and ``fingerprint`` are those of Idempotency-Key."""

    owner: str
    fields: dict[str, list[str]]
    metadata: dict[str, str]
    file: str | None = None
    url: str | None = None
    callback_url: str | None = None
    key: str | None = None
    fingerprint: str = ""


def new_id(kind: str) -> str:
    """An identifier that nobody guesses."""
    return f"{kind}_{secrets.token_hex(12)}"


def create(new: NewJob) -> Callable[[Connection], tuple[Job, bool]]:
    """Make a job; True with it where it is new. ApiError where the key was used for another request."""

    def work(connection: Connection) -> tuple[Job, bool]:
        if new.key and (known := by_key(new.owner, new.key, new.fingerprint)(connection)):
            return known, False
        job = new_id("job")
        connection.execute(
            insert(JOBS).values(
                id=job,
                owner=new.owner,
                status=QUEUED,
                created_at=now(connection),
                file=new.file,
                url=new.url,
                fields=json.dumps(new.fields, ensure_ascii=False),
                metadata=json.dumps(new.metadata, ensure_ascii=False),
                callback_url=new.callback_url,
            )
        )
        if new.key:
            row = {"owner": new.owner, "key": new.key, "fingerprint": new.fingerprint, "job_id": job}
            connection.execute(insert(IDEMPOTENCY).values(row))
        return get(job, new.owner)(connection), True

    return work


def by_key(owner: str, key: str, fingerprint: str) -> Callable[[Connection], Job | None]:
    """The job that was made with ``key``. ApiError where that was another request."""

    def work(connection: Connection) -> Job | None:
        mine = (IDEMPOTENCY.c.owner == owner, IDEMPOTENCY.c.key == key)
        row = connection.execute(select(IDEMPOTENCY).where(*mine)).mappings().first()
        if row is None:
            return None
        if row["fingerprint"] != fingerprint:
            raise ApiError(
                422,
                "this Idempotency-Key was used for another request: send a new key",
                code="idempotency_key_reused",
            )
        return get(row["job_id"], owner)(connection)

    return work


def get(job: str, owner: str) -> Callable[[Connection], Job]:
    """One job of ``owner``. ApiError when there is none."""

    def work(connection: Connection) -> Job:
        mine = (JOBS.c.id == job, JOBS.c.owner == owner, JOBS.c.status != CANCELLED)
        row = connection.execute(select(JOBS).where(*mine)).mappings().first()
        if row is None:
            raise ApiError(404, f"there is no job {job[:60]!r}", code="job_not_found")
        return Job.of(row)

    return work


def listed(
    owner: str, limit: int, after: str | None, status: str | None
) -> Callable[[Connection], tuple[list[Job], bool]]:
    """The jobs of ``owner``, newest first, behind the job ``after``; True where there are more."""

    def work(connection: Connection) -> tuple[list[Job], bool]:
        query = select(JOBS).where(JOBS.c.owner == owner, JOBS.c.status != CANCELLED)
        if status:
            query = query.where(JOBS.c.status == status)
        if after:
            last = get(after, owner)(connection)
            older = JOBS.c.created_at < last.created_at
            same = and_(JOBS.c.created_at == last.created_at, JOBS.c.id < last.id)
            query = query.where(or_(older, same))
        query = query.order_by(JOBS.c.created_at.desc(), JOBS.c.id.desc()).limit(limit + 1)
        found = [Job.of(row) for row in connection.execute(query).mappings()]
        return found[:limit], len(found) > limit

    return work


def bodies(job: str, owner: str) -> Callable[[Connection], tuple[Job, list[str]]]:
    """A job and the texts of its parts, in order."""

    def work(connection: Connection) -> tuple[Job, list[str]]:
        found = get(job, owner)(connection)
        query = select(PARTS.c.body).where(PARTS.c.job_id == job).order_by(PARTS.c.number)
        return found, list(connection.scalars(query))

    return work


def cancel(job: str, owner: str) -> Callable[[Connection], Job]:
    """Take a job back, whatever it is at: all that was said goes at once, its file when `forget` follows."""

    def work(connection: Connection) -> Job:
        found = get(job, owner)(connection)
        _empty(connection, job)
        return found

    return work


def _empty(connection: Connection, job: str) -> None:
    connection.execute(update(JOBS).where(JOBS.c.id == job).values(status=CANCELLED, **_NOTHING))
    for table in (PARTS, DELIVERIES, IDEMPOTENCY):
        connection.execute(delete(table).where(table.c.job_id == job))


_NOTHING = {
    "lease": None,
    "url": None,
    "callback_url": None,
    "fields": "{}",
    "metadata": "{}",
    "error_message": None,
}


def expire(keep: float) -> Callable[[Connection], int]:
    """Take back the jobs that ended ``keep`` seconds ago; their number."""

    def work(connection: Connection) -> int:
        old = (JOBS.c.status.in_(ENDED), JOBS.c.ended_at < now(connection) - keep)
        query = select(JOBS.c.id).where(*old).limit(500).with_for_update(skip_locked=True)
        found = list(connection.scalars(query))
        for job in found:
            _empty(connection, job)
        return len(found)

    return work


def done_with(connection: Connection) -> list[tuple[str, str | None]]:
    """The ids and files of jobs that have ended or were taken back, and are not cleared away yet."""
    ended = and_(JOBS.c.status.in_(ENDED), JOBS.c.file.is_not(None))
    query = select(JOBS.c.id, JOBS.c.file).where(or_(JOBS.c.status == CANCELLED, ended)).limit(500)
    return [(job, file) for job, file in connection.execute(query)]


def forget(job: str) -> Callable[[Connection], None]:
    """Note that the file of an ended job is gone; of a cancelled one nothing is left then."""

    def work(connection: Connection) -> None:
        connection.execute(delete(JOBS).where(JOBS.c.id == job, JOBS.c.status == CANCELLED))
        connection.execute(update(JOBS).where(JOBS.c.id == job).values(file=None))

    return work


def unnamed(files: Sequence[str]) -> Callable[[Connection], list[str]]:
    """Those of ``files`` that no job names."""

    def work(connection: Connection) -> list[str]:
        return [file for file in files if not connection.scalar(select(exists().where(JOBS.c.file == file)))]

    return work
