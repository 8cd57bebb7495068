"""The tables of jobs, and the clock that all hosts share. Times are seconds since 1970."""

import time

from sqlalchemy import (
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    select,
)

from ko_asr.gateway.database import METADATA

QUEUED, RUNNING, COMPLETED, FAILED = "queued", "running", "completed", "failed"
CANCELLED = "cancelled"  # to be removed: nobody sees it any more
ENDED = (COMPLETED, FAILED)

JOBS = Table(
    "jobs",
    METADATA,
    Column("id", String(40), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("status", String(12), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("file", String(200)),  # the upload in the store, until the job has ended
    Column("url", Text),
    Column("fields", Text, nullable=False),  # JSON: the form that came
    Column("metadata", Text, nullable=False),
    Column("callback_url", Text),
    Column("audio_seconds", Float),
    Column("progress", Integer, nullable=False, default=0),
    Column("error_code", String(60)),
    Column("error_message", Text),
    # Who works at it, and until when it is his: he renews it while he lives.
    Column("lease", String(200)),
    Column("lease_until", Float),
    Column("attempts", Integer, nullable=False, default=0),
    Column("deferrals", Integer, nullable=False, default=0),
    Column("run_after", Float, nullable=False, default=0.0),
    Index("jobs_work", "status", "run_after"),
    Index("jobs_owner", "owner", "created_at"),
)

# What was recognised, in the order of ``number``; ``end`` is the encoder frame from which it goes on.
PARTS = Table(
    "job_parts",
    METADATA,
    Column("job_id", String(40), ForeignKey("jobs.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("end", Integer, nullable=False),
    Column("body", Text, nullable=False),
)

IDEMPOTENCY = Table(
    "job_idempotency",
    METADATA,
    Column("owner", String(200), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("job_id", String(40), ForeignKey("jobs.id"), nullable=False, index=True),
)

PENDING, DELIVERED, GIVEN_UP = "pending", "delivered", "failed"

DELIVERIES = Table(
    "job_deliveries",
    METADATA,
    Column("id", String(40), primary_key=True),  # webhook-id: the same over all tries
    Column("job_id", String(40), ForeignKey("jobs.id"), nullable=False),
    Column("kind", String(20), nullable=False),  # job.completed, job.failed
    Column("channel", String(10), nullable=False),  # webhook, broker
    Column("url", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(12), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("next_at", Float, nullable=False),
    Column("last", Text),  # what the last try came to
    UniqueConstraint("job_id", "channel"),
    Index("deliveries_due", "state", "next_at"),
)


def now(connection: Connection) -> float:
    """The time of the database's host: leases of many hosts are compared."""
    if connection.dialect.name == "postgresql":
        return float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)
    return time.time()
