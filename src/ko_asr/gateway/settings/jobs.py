"""What the jobs of a gateway are started with."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from ko_asr.gateway.database import default_data

GIB = 1 << 30


@dataclass(frozen=True)
class JobSettings:
    """Places and limits of jobs; sizes in bytes, times in seconds unless named otherwise."""

    data: Path = field(default_factory=default_data)
    database: str | None = None  # SQLAlchemy's address; SQLite in ``data`` without one
    files: str | None = None  # a folder, or s3://bucket/prefix; a folder in ``data`` without one
    workers: int = 1  # jobs at a time in this process
    max_upload: int = 2 * GIB
    max_seconds: float = 4 * 3600.0
    keep_hours: float = 72.0
    lease: float = 30.0  # after which the job of a worker that died goes to another
    attempts: int = 5  # a job that took so many workers with it has failed
    save_every: float = 300.0  # of audio: what a worker that dies loses
    poll: float = 1.0
    allow_urls: tuple[str, ...] = ()
    allow_callbacks: tuple[str, ...] = ()  # hosts that may be inside
    allow_http: bool = False
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
        add = parser.add_argument_group("jobs").add_argument
        default = JobSettings()
        add("--data", type=Path, default=default.data, metavar="DIR", help=f"state ({default.data})")
        add("--database", metavar="URL", help="SQLAlchemy's address (sqlite in --data)")
        add("--files", metavar="PLACE", help="of jobs: a folder or s3://bucket/prefix (in --data)")
        add("--job-workers", type=int, default=default.workers, metavar="N", help="jobs at a time here (1)")
        add("--job-max-upload", type=float, default=default.max_upload / GIB, metavar="GIB", help="(2)")
        add("--job-max-hours", type=float, default=default.max_seconds / 3600, help="of a job's audio (4)")
        add("--keep-hours", type=float, default=default.keep_hours, help="for results of jobs (72)")
        add(
            "--job-lease",
            type=float,
            default=default.lease,
            help="seconds until a dead worker's job moves on",
        )
        add("--job-attempts", type=int, default=default.attempts, help="workers that a job may kill (5)")
        add("--job-save-every", type=float, default=default.save_every, help="seconds of audio (300)")
        add("--job-poll", type=float, default=default.poll, help="seconds between looks for work (1)")
        add("--job-sweep-every", type=float, default=default.sweep_every, help="seconds (60)")
        add("--allow-url", action="append", default=[], metavar="HOST", help="that jobs may name; repeatable")
        add("--allow-callback", action="append", default=[], metavar="HOST", help="inside; repeatable")
        add("--allow-http", action="store_true", help="callbacks and files without TLS")
        add("--webhook-secret-file", type=Path, metavar="FILE", help="with whsec_... (made in --data)")
        add("--webhook-timeout", type=float, default=default.webhook_timeout, help="seconds (15)")
        add("--webhook-scale", type=float, default=default.webhook_scale, help="times between tries (1)")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "JobSettings":
        """The settings of a parsed command line."""
        return cls(
            data=args.data,
            database=args.database,
            files=args.files,
            workers=args.job_workers,
            max_upload=int(args.job_max_upload * GIB),
            max_seconds=args.job_max_hours * 3600,
            keep_hours=args.keep_hours,
            lease=args.job_lease,
            attempts=args.job_attempts,
            save_every=args.job_save_every,
            poll=args.job_poll,
            allow_urls=tuple(host.lower() for host in args.allow_url),
            allow_callbacks=tuple(host.lower() for host in args.allow_callback),
            allow_http=args.allow_http,
            webhook_secret=args.webhook_secret_file,
            webhook_timeout=args.webhook_timeout,
            webhook_scale=args.webhook_scale,
            sweep_every=args.job_sweep_every,
        )
