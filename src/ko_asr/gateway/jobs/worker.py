"""One job after another: fetch its audio, decode, recognise, write down. If it dies, another goes on."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from contextlib import aclosing
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from ko_asr.gateway.audio.decode import Decoded, decode_channels
from ko_asr.gateway.audio.folders import RequestFolder, room_on_disk
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.engine.channels import channel_parts
from ko_asr.gateway.engine.keywords import usable
from ko_asr.gateway.engine.long_audio import Part, parts
from ko_asr.gateway.engine.pieces import FRAME_MS
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.gateway import Gateway
from ko_asr.gateway.jobs import leases, results
from ko_asr.gateway.jobs.download import Download
from ko_asr.gateway.jobs.files import Files
from ko_asr.gateway.jobs.janitor import Janitor
from ko_asr.gateway.jobs.leases import Lease, Lost, Progress
from ko_asr.gateway.options import read_options

LOG = logging.getLogger("ko_asr.gateway")
_BEAT = 2.0  # seconds at most between two renewals, which tell how far it is
_DECODE_TIMEOUT = 1800.0
_AWAY = (429, 503, 507)  # statuses that say nothing against the job
_BAD_GATEWAY, _DOWNLOADS = 502, 8  # of an address that does not answer, so often


class Worker:
    """Takes jobs from the database; any number of them may run, on any hosts."""

    def __init__(self, gateway: Gateway, files: Files, janitor: Janitor, download: Download) -> None:
        settings = gateway.settings
        self.settings = replace(
            settings,
            max_seconds=settings.jobs.max_seconds,
            max_upload=settings.jobs.max_upload,
            decode_timeout=_DECODE_TIMEOUT,
        )
        self.gateway, self.files, self.janitor, self.download = gateway, files, janitor, download
        self._name = f"{socket.gethostname()[:60]}/{os.getpid()}/{secrets.token_hex(4)}"

    async def work_one(self) -> bool:
        """Work at one job until it has ended or cannot go on; False where none waits."""
        jobs = self.settings.jobs
        lease = await self.gateway.database.run(leases.take(self._name, jobs.lease, jobs.attempts))
        if lease is None:
            return False
        held = _Held(self, lease)
        await held.run()
        return True


class _Held:
    """One job in this worker's hands."""

    def __init__(self, worker: Worker, lease: Lease) -> None:
        self._worker, self._lease, self._percent = worker, lease, lease.job.progress
        self._settings, self._database = worker.settings, worker.gateway.database
        self._seconds, self._began = 0.0, time.monotonic()

    async def run(self) -> None:
        """Work while the lease is renewed; CancelledError gives the job back."""
        work, beat = asyncio.create_task(self._work()), asyncio.create_task(self._beat())
        try:
            await asyncio.wait([work, beat], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            await _end((work, beat))
            await self._give_back(counts=False)
            raise
        finally:
            await _end((work, beat))
        if not work.cancelled() and (error := work.exception()):
            await self._failed(error)

    async def _beat(self) -> None:
        lease = self._settings.jobs.lease
        while True:
            await asyncio.sleep(min(_BEAT, lease / 3))
            try:
                await self._database.run(leases.renew(self._lease, lease, self._percent))
            except Lost:
                return
            except SQLAlchemyError as error:
                LOG.warning("job %s: its lease is not renewed: %s", self._lease.job.id, _first_line(error))

    async def _failed(self, error: BaseException) -> None:
        job = self._lease.job
        if isinstance(error, Lost):
            LOG.info("job %s: taken back, or another's", job.id)
        elif isinstance(error, SQLAlchemyError):
            LOG.warning("job %s: the database fails: %s", job.id, _first_line(error))
        else:
            LOG.error("job %s failed here", job.id, exc_info=error)
            await self._give_back(counts=True)

    async def _give_back(self, counts: bool) -> None:
        with contextlib.suppress(Lost, SQLAlchemyError):
            await asyncio.shield(self._database.run(leases.release(self._lease, counts)))

    async def _work(self) -> None:
        worker, job = self._worker, self._lease.job
        try:
            self._options = read_options(job.form, self._settings)
            folder = worker.gateway.workspace.job_folder()
            try:
                await self._recognise(await self._audio(folder))
            finally:
                await folder.remove()
            worker.gateway.metrics.jobs.labels("completed").inc()
            LOG.info("job %s completed: %.1f s of audio in %.1f s", job.id, self._seconds, self._took)
        except ApiError as error:
            if await self._settle(error):
                return
        if job.file:
            with contextlib.suppress(ApiError):  # the janitor comes by again
                await worker.janitor.remove(job.id, job.file)

    async def _settle(self, error: ApiError) -> bool:
        """End the job with ``error``; True where it waits instead."""
        job = self._lease.job
        downloads = error.status == _BAD_GATEWAY and job.deferrals < _DOWNLOADS
        if error.status in _AWAY or downloads:
            LOG.info("job %s waits: %s", job.id, error.code or error.status)
            await self._database.run(leases.defer(self._lease, error))
            return True
        await self._database.run(leases.fail(self._lease, error))
        self._worker.gateway.metrics.jobs.labels("failed").inc()
        LOG.info("job %s failed: %s after %.1f s", job.id, error.code or error.status, self._took)
        return False

    @property
    def _took(self) -> float:
        """Seconds in this worker's hands."""
        return time.monotonic() - self._began

    async def _audio(self, folder: RequestFolder) -> list[Decoded]:
        worker, job = self._worker, self._lease.job
        with room_on_disk():
            upload = folder.upload
        if job.file:
            try:
                await worker.files.get(job.file, upload)
            except FileNotFoundError:
                raise ApiError(500, "the upload is gone: send it again", code="file_lost") from None
        else:
            assert job.url
            await worker.download.get(job.url, upload)
        wanted = self._options.audio
        audio = await decode_channels(folder, "file", self._settings, worker.gateway.decoders, wanted)
        await asyncio.to_thread(upload.unlink)
        if job.audio_seconds is None:
            seconds = sum(channel.seconds for channel in audio)
            worker.gateway.caller(job.owner).spend(seconds)
            worker.gateway.metrics.audio.inc(seconds)
            await self._database.run(leases.note(self._lease, audio_seconds=audio[0].seconds))
        self._seconds = audio[0].seconds
        return audio

    async def _recognise(self, audio: list[Decoded]) -> None:
        worker, caller = self._worker, self._worker.gateway.caller(self._lease.job.owner)
        keywords = await usable(worker.gateway.recogniser.try_keywords, self._options.keywords, caller)
        if len(audio) == 1:
            await self._recognise_one(audio[0], caller, keywords)
            return
        recogniser = worker.gateway.recogniser
        found = await channel_parts(audio, recogniser, self._settings, caller, keywords, self._heard)
        await self._complete(0, found)

    async def _recognise_one(self, audio: Decoded, caller: Caller, keywords: tuple[str, ...]) -> None:
        """Go on where a worker before has saved the last part."""
        number, begin = await self._database.run(leases.saved(self._lease))
        recogniser, unsaved = self._worker.gateway.recogniser, list[Part]()
        source = parts(audio, recogniser, self._settings, caller, keywords, begin=begin)
        async with aclosing(source) as found:
            async for part in found:
                unsaved.append(part)
                self._heard(part)
                if part.pause and (part.pause - begin) * FRAME_MS >= 1000 * self._settings.jobs.save_every:
                    body = await asyncio.to_thread(results.encode, [unsaved])
                    progress = Progress(number, part.pause, body, self._percent)
                    await self._database.run(leases.save(self._lease, progress))
                    number, begin, unsaved = number + 1, part.pause, []
        await self._complete(number, [unsaved])

    async def _complete(self, number: int, channels: list[list[Part]]) -> None:
        body = await asyncio.to_thread(results.encode, channels)
        await self._database.run(leases.complete(self._lease, Progress(number, 0, body, 100)))

    def _heard(self, part: Part) -> None:
        if part.words:
            percent = int(part.words[-1].end_ms / 10 / self._seconds)
            self._percent = min(99, max(self._percent, percent))


async def _end(tasks: tuple[asyncio.Task[None], ...]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
