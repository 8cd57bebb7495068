"""All that jobs need in one process: the queue, the workers, the senders of messages, the janitor."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from ko_asr.errors import UserError
from ko_asr.gateway.audio.folders import Workspace
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.database import Database
from ko_asr.gateway.engine.recogniser import Recogniser
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs import store
from ko_asr.gateway.jobs.download import Download
from ko_asr.gateway.jobs.files import Files
from ko_asr.gateway.jobs.janitor import Janitor
from ko_asr.gateway.jobs.job import Job
from ko_asr.gateway.jobs.safe_http import SafeHttp
from ko_asr.gateway.jobs.webhooks import Sender, read_secret
from ko_asr.gateway.jobs.worker import Worker
from ko_asr.gateway.metrics import Metrics
from ko_asr.gateway.settings.gateway import Settings

LOG = logging.getLogger("ko_asr.gateway")
_SENDERS = 4  # a receiver that hangs holds one of them
_AFTER_FAILURE = 5.0  # seconds


class Jobs:
    """The jobs of one process. Start it when the recogniser is there."""

    def __init__(self, settings: Settings, database: Database, metrics: Metrics) -> None:
        """Open the places of files and secrets. UserError."""
        jobs = settings.jobs
        _make_folder(jobs.data)
        self.settings, self.database = jobs, database
        self.files = Files(jobs.files_place)
        self._secret = read_secret(jobs.secret_file, make=jobs.webhook_secret is None)
        self._all, self._metrics = settings, metrics
        self._tasks: list[asyncio.Task[None]] = []
        self._work, self._mail = asyncio.Event(), asyncio.Event()

    async def start(
        self,
        recogniser: Recogniser,
        workspace: Workspace,
        decoders: ThreadPoolExecutor,
        callers: Callable[[str], Caller] = Caller,
    ) -> None:
        """Begin to work; ``callers`` finds who made a job by his name."""
        jobs = self.settings
        self.http = SafeHttp(jobs.allow_callbacks, jobs.allow_http, jobs.webhook_timeout)
        self.download = Download(self.http, jobs.allow_urls, jobs.max_upload)
        self._janitor = Janitor(self.database, self.files, workspace, jobs)
        for _ in range(jobs.workers):
            worker = Worker(
                self._all,
                self.database,
                self.files,
                self._janitor,
                self.download,
                recogniser,
                workspace,
                decoders,
                self._metrics,
                callers,
            )
            self._begin(worker.work_one, self._work, self._mail)
        sender = Sender(self.database, self.http, self._secret, jobs)
        for _ in range(_SENDERS):
            self._begin(sender.send_one, self._mail)
        self._tasks.append(asyncio.create_task(self._sweep()))

    async def stop(self) -> None:
        """Give jobs back and end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.http.__aexit__()

    async def cancel(self, job: str, owner: str) -> Job:
        """Take a job back with all that belongs to it; the job as it was. ApiError when there is none."""
        found = await self.database.run(store.cancel(job, owner))
        with contextlib.suppress(ApiError):  # the janitor comes by again
            await self._janitor.remove(job, found.file)
        return found

    def wake(self) -> None:
        """Let a worker of this process look at once."""
        self._work.set()

    def _begin(
        self, one: Callable[[], Awaitable[bool]], wake: asyncio.Event, then: asyncio.Event | None = None
    ) -> None:
        self._tasks.append(asyncio.create_task(self._serve(one, wake, then)))

    async def _serve(
        self, one: Callable[[], Awaitable[bool]], wake: asyncio.Event, then: asyncio.Event | None
    ) -> None:
        """Do ``one`` after another, and wait where there is none; ``then`` wakes those behind."""
        while True:
            try:
                found = await one()
            except Exception as error:
                _report(error)
                await asyncio.sleep(_AFTER_FAILURE)
                continue
            if found and then is not None:
                then.set()
            if not found:
                await _wait(wake, self.settings.poll)

    async def _sweep(self) -> None:
        while True:
            try:
                await self._janitor.sweep()
            except Exception as error:
                _report(error)
            await asyncio.sleep(self.settings.sweep_every)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
    event.clear()


def _report(error: Exception) -> None:
    """What must not end a process that serves others."""
    if isinstance(error, SQLAlchemyError | ApiError):
        LOG.warning("jobs: %s", str(error).splitlines()[0])
    else:
        LOG.error("jobs", exc_info=error)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UserError(
            f"the folder {path} cannot be made ({error.strerror}): give another --data"
        ) from error
