"""What nobody needs any more goes: results whose time is over, files of ended jobs, files of no job."""

import asyncio

from ko_asr.gateway.audio.folders import Workspace
from ko_asr.gateway.database import Database
from ko_asr.gateway.jobs import store
from ko_asr.gateway.jobs.files import Files
from ko_asr.gateway.settings.jobs import JobSettings

_GRACE = 10  # sweeps for which a file may lie before its job is in the database


class Janitor:
    """Sweeps; every process has one, and none depends on another."""

    def __init__(self, database: Database, files: Files, workspace: Workspace, settings: JobSettings) -> None:
        self._database, self._files, self._workspace = database, files, workspace
        self._settings = settings

    async def sweep(self) -> None:
        """Remove all that may go. ApiError and SQLAlchemyError end it; the next one goes on."""
        while await self._database.run(store.expire(3600 * self._settings.keep_hours)):
            pass
        while found := await self._database.run(store.done_with):
            for job, file in found:
                await self.remove(job, file)
        await asyncio.to_thread(self._sweep_files)
        await asyncio.to_thread(self._workspace.remove_abandoned)

    async def remove(self, job: str, file: str | None) -> None:
        """Remove the file of a job that has ended, and what else of a cancelled one."""
        if file:
            await asyncio.to_thread(self._files.delete, file)
        await self._database.run(store.forget(job))

    def _sweep_files(self) -> None:
        age = _GRACE * self._settings.sweep_every
        for keys in self._files.older_than(age):
            for key in self._database.run_now(store.unnamed(keys)):
                self._files.delete(key)
        self._files.remove_unfinished(age)
