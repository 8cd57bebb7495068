"""Who works at which job. A lease is renewed while its worker lives; one that ran out is another's to take.

Functions of one transaction each. Whatever a worker writes, it writes under its lease: one that was thought
dead and comes back finds that it is `Lost`.
"""

import json
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs.job import Job
from ko_asr.gateway.jobs.store import new_id
from ko_asr.gateway.jobs.tables import (
    COMPLETED,
    DELIVERIES,
    FAILED,
    JOBS,
    PARTS,
    PENDING,
    QUEUED,
    RUNNING,
    now,
)

LOG = logging.getLogger("ko_asr.gateway")
_DEFERRAL = (1.0, 60.0)  # seconds, the first and the longest
_PATIENCE = 1440  # deferrals: a day at least


class Lost(Exception):
    """The lease is another's, or the job is gone."""


@dataclass(frozen=True)
class Lease:
    """A job in the hands of one worker."""

    job: Job
    token: str


@dataclass(frozen=True)
class Progress:
    """What is recognised: parts as text, and the encoder frame from which it goes on; the per cent of all."""

    number: int
    end: int
    body: str
    percent: int


def take(worker: str, seconds: float, attempts: int) -> Callable[[Connection], Lease | None]:
    """Take the job whose turn it is, for ``seconds``: the next of the caller who was served longest ago.

    A job that had ``attempts`` workers, who all died, has failed.
    """

    def work(connection: Connection) -> Lease | None:
        moment = now(connection)
        while row := connection.execute(_free(moment)).mappings().first():
            job = Job.of(row)
            if job.attempts >= attempts:
                error = ApiError(500, f"{attempts} workers died or failed at it", code="worker_lost")
                LOG.warning("job %s failed: worker_lost after %d attempts", job.id, attempts)
                _end(connection, job, FAILED, moment, error)
                continue
            token = f"{worker}/{secrets.token_hex(8)}"
            values = {"status": RUNNING, "lease": token, "lease_until": moment + seconds}
            connection.execute(
                update(JOBS)
                .where(JOBS.c.id == job.id)
                .values(started_at=moment, attempts=job.attempts + 1, **values)
            )
            return Lease(job, token)
        return None

    return work


def _free(moment: float) -> Any:
    other = JOBS.alias()
    served = (
        select(func.coalesce(func.max(other.c.started_at), 0.0))
        .where(other.c.owner == JOBS.c.owner)
        .scalar_subquery()
    )
    waits = and_(JOBS.c.status == QUEUED, JOBS.c.run_after <= moment)
    abandoned = and_(JOBS.c.status == RUNNING, JOBS.c.lease_until < moment)
    return (
        select(JOBS)
        .where(or_(waits, abandoned))
        .order_by(served, JOBS.c.created_at)
        .limit(1)
        .with_for_update(skip_locked=True, of=JOBS)
    )


def _own(connection: Connection, lease: Lease) -> None:
    """Hold the row of ``lease`` for this transaction. Lost."""
    mine = (JOBS.c.id == lease.job.id, JOBS.c.lease == lease.token, JOBS.c.status == RUNNING)
    if connection.execute(select(JOBS.c.id).where(*mine).with_for_update()).first() is None:
        raise Lost


def renew(lease: Lease, seconds: float, percent: int) -> Callable[[Connection], None]:
    """Hold ``lease`` for ``seconds`` from now, and tell how far it is. Lost."""

    def work(connection: Connection) -> None:
        _own(connection, lease)
        _set(connection, lease.job, lease_until=now(connection) + seconds, progress=percent)

    return work


def note(lease: Lease, **values: float) -> Callable[[Connection], None]:
    """Write columns of the job, such as its ``audio_seconds``. Lost."""

    def work(connection: Connection) -> None:
        _own(connection, lease)
        _set(connection, lease.job, **values)

    return work


def save(lease: Lease, progress: Progress) -> Callable[[Connection], None]:
    """Keep parts for whoever goes on, and show how far it is. Lost."""

    def work(connection: Connection) -> None:
        _own(connection, lease)
        _save(connection, lease, progress)

    return work


def saved(lease: Lease) -> Callable[[Connection], tuple[int, int]]:
    """How many parts are kept, and the encoder frame from which it goes on."""

    def work(connection: Connection) -> tuple[int, int]:
        query = select(func.count(), func.max(PARTS.c.end)).where(PARTS.c.job_id == lease.job.id)
        count, end = connection.execute(query).one()
        return count, end or 0

    return work


def complete(lease: Lease, progress: Progress) -> Callable[[Connection], None]:
    """End the job with its last parts, and let its caller know. Lost."""

    def work(connection: Connection) -> None:
        _own(connection, lease)
        _save(connection, lease, progress)
        _end(connection, _current(connection, lease), COMPLETED, now(connection))

    return work


def fail(lease: Lease, error: ApiError) -> Callable[[Connection], None]:
    """End the job with a reason, and let its caller know. Lost."""

    def work(connection: Connection) -> None:
        _own(connection, lease)
        _end(connection, _current(connection, lease), FAILED, now(connection), error)

    return work


def defer(lease: Lease, error: ApiError) -> Callable[[Connection], None]:
    """Give the job back, for a while: what it needs is away. Lost.

    The attempt does not count; after a day of that the job fails with ``error``.
    """

    def work(connection: Connection) -> None:
        _own(connection, lease)
        job, moment = _current(connection, lease), now(connection)
        if job.deferrals >= _PATIENCE:
            _end(connection, job, FAILED, moment, error)
            return
        wait = max(deferral(job.deferrals), error.retry_after or 0)
        attempts, deferrals = max(0, job.attempts - 1), job.deferrals + 1
        _set(connection, lease.job, attempts=attempts, deferrals=deferrals, run_after=moment + wait, **_FREE)

    return work


def release(lease: Lease, counts: bool) -> Callable[[Connection], None]:
    """Give the job back at once; the attempt counts where the job may be the reason. Lost."""

    def work(connection: Connection) -> None:
        _own(connection, lease)
        attempts = lease.job.attempts + counts
        _set(connection, lease.job, attempts=attempts, run_after=now(connection) + counts, **_FREE)

    return work


def deferral(times: int) -> float:
    """Seconds to wait when it was for nothing so many times."""
    first, longest = _DEFERRAL
    return float(min(longest, first * 2 ** min(times, 10)))


_FREE: dict[str, Any] = {"status": QUEUED, "lease": None, "lease_until": None}


def _current(connection: Connection, lease: Lease) -> Job:
    return Job.of(connection.execute(select(JOBS).where(JOBS.c.id == lease.job.id)).mappings().one())


def _set(connection: Connection, job: Job, **values: Any) -> None:
    connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(**values))


def _save(connection: Connection, lease: Lease, progress: Progress) -> None:
    row = {"job_id": lease.job.id, "number": progress.number, "end": progress.end, "body": progress.body}
    connection.execute(insert(PARTS).values(row))
    _set(connection, lease.job, progress=progress.percent)


def _end(connection: Connection, job: Job, status: str, moment: float, error: ApiError | None = None) -> None:
    values: dict[str, Any] = {"status": status, "ended_at": moment, "lease": None, "lease_until": None}
    values["url"] = None  # it may be a secret, and nobody needs it any more
    if error is not None:
        values |= {"error_code": error.code, "error_message": error.message}
    connection.execute(update(JOBS).where(JOBS.c.id == job.id).values(**values))
    if job.callback_url:
        _announce(connection, job, status, moment, error, "webhook", job.callback_url)
    if job.publish:
        _announce(connection, job, status, moment, error, "broker", "")


def _announce(
    connection: Connection,
    job: Job,
    status: str,
    moment: float,
    error: ApiError | None,
    channel: str,
    url: str,
) -> None:
    """Put the message of a job's end beside it, in the same transaction: it is sent while either is there."""
    kind = f"job.{status}"
    data: dict[str, Any] = {"id": job.id, "status": status, "metadata": job.metadata}
    data |= {"audio_seconds": job.audio_seconds, "result": f"/v1/jobs/{job.id}/result"}
    if error is not None:
        data["error"] = {"code": error.code, "message": error.message}
        del data["result"]
    stamp = datetime.fromtimestamp(moment, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    body = json.dumps({"type": kind, "timestamp": stamp, "data": data}, ensure_ascii=False)
    connection.execute(
        insert(DELIVERIES).values(
            id=new_id("msg"),
            job_id=job.id,
            kind=kind,
            channel=channel,
            url=url,
            body=body,
            state=PENDING,
            next_at=moment,
        )
    )
