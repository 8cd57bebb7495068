"""What the jobs of a gateway are started with."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError
from ko_asr.gateway.database import default_data

GIB = 1 << 30
_POSITIVE = (
    *("job_max_upload", "job_max_hours", "job_max_waiting", "keep_hours", "job_lease", "job_attempts"),
    *("job_save_every", "job_poll", "job_sweep_every", "webhook_timeout", "webhook_scale"),
)


@dataclass(frozen=True)
class JobSettings:
    """Places and limits of jobs; sizes in bytes, times in seconds unless named otherwise."""

    data: Path = field(default_factory=default_data)
    database: str | None = None  # SQLAlchemy's address; SQLite in ``data`` without one
    files: str | None = None  # a folder, or s3://bucket/prefix; a folder in ``data`` without one
    workers: int = 1  # jobs at a time in this process
    max_upload: int = 2 * GIB
    max_seconds: float = 4 * 3600.0
    max_waiting: int = 1000  # jobs of a caller that have not ended
    keep_hours: float = 72.0
    lease: float = 30.0  # after which the job of a worker that died goes to another
    attempts: int = 5  # a job that took so many workers with it has failed
    save_every: float = 300.0  # of audio: what a worker that dies loses
    poll: float = 1.0
    allow_urls: tuple[str, ...] = ()
    allow_callbacks: tuple[str, ...] = ()  # hosts that may be inside
    allow_http: bool = False
    broker: str | None = None  # nats://, amqp:// or kafka://
    webhook_secret: Path | None = None  # a file; one in ``data`` without it
    webhook_timeout: float = 15.0
    webhook_scale: float = 1.0  # of the times between tries
    sweep_every: float = 60.0

    @property
    def database_url(self) -> str:
        """The address of the database."""
        return self.database or f"sqlite:///{self.data / 'gateway.db'}"

    @property
    def files_place(self) -> str:
        """Where uploads lie until their job has ended."""
        return self.files or str(self.data / "files")

    @property
    def secret_file(self) -> Path:
        """The file of the key that signs webhooks."""
        return self.webhook_secret or self.data / "webhook-secret"

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        """Add the options that `of` reads."""
        add = parser.add_argument_group("jobs (docs/gateway-jobs.md)").add_argument
        default = JobSettings()
        number: dict[str, Any] = {"type": int, "metavar": "N"}
        hours: dict[str, Any] = {"type": float, "metavar": "HOURS"}
        seconds: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
        many: dict[str, Any] = {"action": "append", "default": [], "metavar": "HOST"}
        add("--data", type=Path, default=default.data, metavar="DIR", help=f"what is kept ({default.data})")
        add("--database", metavar="URL", help="keys and jobs, by SQLAlchemy's address (sqlite in --data)")
        add("--files", metavar="PLACE", help="uploads: a folder or s3://bucket/prefix (in --data)")
        add("--job-workers", default=default.workers, help="jobs at a time here (1)", **number)
        upload = default.max_upload / GIB
        add("--job-max-upload", type=float, default=upload, metavar="GIB", help="largest file of a job (2)")
        add("--job-max-hours", default=default.max_seconds / 3600, help="most audio of a job (4)", **hours)
        add("--job-max-waiting", default=default.max_waiting, help="waiting jobs of a key (1000)", **number)
        add("--keep-hours", default=default.keep_hours, help="until results are removed (72)", **hours)
        add("--job-lease", default=default.lease, help="until a dead worker's job moves on (30)", **seconds)
        add("--job-attempts", default=default.attempts, help="workers that a job may kill (5)", **number)
        add("--job-save-every", default=default.save_every, help="of audio, to go on from (300)", **seconds)
        add("--job-poll", default=default.poll, help="between looks for work (1)", **seconds)
        add("--job-sweep-every", default=default.sweep_every, help="between clearings (60)", **seconds)
        add("--allow-url", help="from which jobs may fetch files; repeatable", **many)
        add("--allow-callback", help="that may be inside the network, without TLS; repeatable", **many)
        add("--allow-http", action="store_true", help="callbacks and files without TLS")
        add("--broker", metavar="URL", help="nats://, amqp:// or kafka://: jobs come from it, news go to it")
        add("--webhook-secret-file", type=Path, metavar="FILE", help="has the line whsec_... (in --data)")
        add("--webhook-timeout", default=default.webhook_timeout, help="for a receiver (15)", **seconds)
        scale = default.webhook_scale
        add("--webhook-scale", type=float, default=scale, metavar="FACTOR", help="of waits between tries (1)")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "JobSettings":
        """Read the command line of `add_options`. UserError for a number that cannot be meant."""
        bad = [name for name in _POSITIVE if not getattr(args, name) > 0]
        if bad or args.job_workers < 0:
            name = bad[0] if bad else "job_workers"
            raise UserError(f"--{name.replace('_', '-')} must {'be positive' if bad else 'not be negative'}")
        return cls(
            data=args.data,
            database=args.database,
            files=args.files,
            workers=args.job_workers,
            max_upload=int(args.job_max_upload * GIB),
            max_seconds=args.job_max_hours * 3600,
            max_waiting=args.job_max_waiting,
            keep_hours=args.keep_hours,
            lease=args.job_lease,
            attempts=args.job_attempts,
            save_every=args.job_save_every,
            poll=args.job_poll,
            allow_urls=tuple(host.lower() for host in args.allow_url),
            allow_callbacks=tuple(host.lower() for host in args.allow_callback),
            allow_http=args.allow_http,
            broker=args.broker,
            webhook_secret=args.webhook_secret_file,
            webhook_timeout=args.webhook_timeout,
            webhook_scale=args.webhook_scale,
            sweep_every=args.job_sweep_every,
        )
