"""Jobs and a broker: what comes becomes jobs in the database, what has ended is published from there."""

import asyncio
import hashlib
import json
import logging
import random
from typing import Any

from sqlalchemy.exc import IntegrityError

from ko_asr.gateway.audio.upload import Form
from ko_asr.gateway.caller import EVERYBODY
from ko_asr.gateway.database import Database
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs import deliveries, store
from ko_asr.gateway.jobs.broker import open_broker
from ko_asr.gateway.jobs.download import Download
from ko_asr.gateway.jobs.form import new_job
from ko_asr.gateway.jobs.safe_http import SafeHttp
from ko_asr.gateway.jobs.webhooks import wait_after
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.gateway.strict_json import is_writable

LOG = logging.getLogger("ko_asr.gateway")
BROKER = "broker"
REJECTED = "job.rejected"
_OWN = ("id", "owner")
_HELD = 60.0  # seconds for one try
_PAUSE = 2.0  # seconds before a message comes again, and between tries to connect
_MOST_ID = 255


class Exchange:
    """The broker of one process."""

    def __init__(self, url: str, settings: Settings, database: Database) -> None:
        """Nothing is connected yet. UserError where ``url`` cannot be one."""
        self._broker = open_broker(url, self._take)
        self._settings, self._database = settings, database
        self._connected = asyncio.Event()

    async def run(self, http: SafeHttp, download: Download) -> None:
        """Connect, however long that takes, and serve until it is cancelled."""
        self._http, self._download = http, download
        try:
            while not self._connected.is_set():
                try:
                    await self._broker.start()
                    self._connected.set()
                except Exception as error:
                    LOG.warning("broker: %s", type(error).__name__)
                    await asyncio.sleep(_PAUSE)
            await asyncio.Event().wait()
        finally:
            await self._broker.stop()

    async def send_one(self) -> bool:
        """Publish one message that is due; False where there is none."""
        await self._connected.wait()
        delivery = await self._database.run(deliveries.take(BROKER, _HELD))
        if delivery is None:
            return False
        try:
            await self._broker.publish(delivery.kind, delivery.body.encode(), delivery.id)
        except Exception as error:  # whatever the client library raises
            reason = type(error).__name__
            LOG.warning("broker: %s of %s: %s", delivery.id, delivery.job_id, reason)
            # Never given up: a broker comes back, and then wants all.
            scale = self._settings.jobs.webhook_scale
            wait = wait_after(min(delivery.attempt, 2), None, random.random(), scale)
            await self._database.run(deliveries.again(delivery, wait or _PAUSE, reason))
        else:
            await self._database.run(deliveries.arrived(delivery))
        return True

    async def _take(self, message: Any) -> None:
        """Make the job that ``message`` asks for; one that comes again makes none. Raises to get it again."""
        name = message.get("id") if isinstance(message, dict) and is_writable(message) else None
        try:
            new = self._new(message)
        except ApiError as error:
            LOG.info("broker: a message is refused: %s", error.code or error.status)
            data = {"id": name, "error": {"message": error.message, "param": error.param}}
            body = json.dumps({"type": REJECTED, "data": data}, ensure_ascii=False)
            await self._broker.publish(REJECTED, body.encode(), store.new_id("msg"))
            return
        try:
            await self._database.run(store.create(new))
        except IntegrityError:  # it came twice at the same moment
            return
        except Exception as error:
            LOG.warning("broker: a message comes again: %s", type(error).__name__)
            await asyncio.sleep(_PAUSE)
            raise

    def _new(self, message: Any) -> store.NewJob:
        if not isinstance(message, dict) or not is_writable(message):
            raise ApiError(400, "a message is a JSON object, of whole characters")
        name = message.get("id")
        if not isinstance(name, str) or not 1 <= len(name) <= _MOST_ID:
            raise ApiError(400, f"id must be a string of 1 to {_MOST_ID} characters, a job's own", param="id")
        owner = message.get("owner", None if self._settings.access.keys else EVERYBODY.name)
        if not isinstance(owner, str):
            raise ApiError(400, "owner must be the id of a key: who gets the text", param="owner")
        form = Form({key: _values(key, value) for key, value in message.items() if key not in _OWN})
        # The same id is the same job, whatever else is said of it: a broker may repeat itself.
        return new_job(
            form,
            owner,
            self._settings,
            self._http,
            self._download,
            key=name,
            fingerprint=hashlib.sha256(name.encode()).hexdigest(),
        )


def _values(name: str, value: Any) -> list[str]:
    if name == "metadata":
        return [json.dumps(value)]
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(one, str) for one in values):
        raise ApiError(400, f"{name} must be a string, or a list of them", param=name)
    return values
