"""A job as a row, and as its caller sees it."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping

from ko_asr.gateway.audio.upload import Form
from ko_asr.gateway.jobs.tables import COMPLETED, ENDED


@dataclass(frozen=True)
class Job:
    """One row of `tables.JOBS`, without its lease."""

    id: str
    owner: str
    status: str
    created_at: float
    started_at: float | None
    ended_at: float | None
    file: str | None
    url: str | None
    fields: dict[str, list[str]]
    metadata: dict[str, str]
    callback_url: str | None
    audio_seconds: float | None
    progress: int
    error_code: str | None
    error_message: str | None
    attempts: int
    deferrals: int

    @classmethod
    def of(cls, row: RowMapping) -> "Job":
        """The job of a row with all columns."""
        plain = {name: row[name] for name in cls.__dataclass_fields__ if name not in ("fields", "metadata")}
        return cls(fields=json.loads(row["fields"]), metadata=json.loads(row["metadata"]), **plain)

    @property
    def ended(self) -> bool:
        """True when nothing of it changes any more."""
        return self.status in ENDED

    @property
    def form(self) -> Form:
        """The fields that it was made with."""
        return Form(self.fields)

    def to_json(self, keep_hours: float) -> dict[str, Any]:
        """What GET /v1/jobs/{id} answers."""
        error = {"code": self.error_code, "message": self.error_message} if self.error_message else None
        return {
            "id": self.id,
            "object": "job",
            "status": self.status,
            "created_at": int(self.created_at),
            "started_at": _whole(self.started_at),
            "ended_at": _whole(self.ended_at),
            "expires_at": _whole(self.ended_at and self.ended_at + 3600 * keep_hours),
            "progress": 100 if self.status == COMPLETED else self.progress,
            "audio_seconds": self.audio_seconds and round(self.audio_seconds, 3),
            "model": self.fields["model"][0],
            "callback_url": self.callback_url,
            "metadata": self.metadata,
            "error": error,
        }


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds)
