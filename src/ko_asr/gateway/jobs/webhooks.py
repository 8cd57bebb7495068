"""Messages to callers' addresses, signed after Standard Webhooks (standardwebhooks.com).

At least once: a message is tried until a status of 2xx says that it arrived, with the same webhook-id.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import logging
import os
import random
import secrets
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from ko_asr.errors import UserError
from ko_asr.gateway.database import Database
from ko_asr.gateway.jobs import deliveries
from ko_asr.gateway.jobs.deliveries import Delivery
from ko_asr.gateway.jobs.safe_http import SafeHttp
from ko_asr.gateway.settings.jobs import JobSettings

LOG = logging.getLogger("ko_asr.gateway")
WEBHOOK = "webhook"
_MINUTE, _HOUR = 60.0, 3600.0
_WAITS = (5.0, 5 * _MINUTE, 30 * _MINUTE, *(hours * _HOUR for hours in (2, 5, 10, 14, 24)))
_JITTER = 0.2
_LONGEST = 24 * _HOUR
_PREFIX = "whsec_"


def wait_after(attempt: int, retry_after: float | None, chance: float, scale: float = 1.0) -> float | None:
    """Seconds until the try after number ``attempt``, counted from 1; None where that was the last.

    ``chance`` in 0..1 spreads them, so that what failed together is not tried together; the receiver's
    ``retry_after`` is the least.
    """
    if attempt > len(_WAITS):
        return None
    wait = scale * _WAITS[attempt - 1] * (1 + _JITTER * (2 * chance - 1))
    return max(wait, min(retry_after or 0.0, _LONGEST))


def signature(secret: bytes, message: str, timestamp: int, body: bytes) -> str:
    """The value of webhook-signature."""
    digest = hmac.digest(secret, f"{message}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(digest).decode()}"


def read_secret(path: Path, make: bool) -> bytes:
    """The key in ``path``, whsec_ and base64, as users get it; made where it is missing and ``make``.

    UserError when there is none, or no usable one.
    """
    if make:
        _make_secret(path)
    try:
        text = path.read_text(encoding="ascii").strip()
        found = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (OSError, UnicodeDecodeError, binascii.Error) as error:
        raise UserError(f"no webhook secret can be read from {path} ({error})") from error
    if not text.startswith(_PREFIX) or not 24 <= len(found) <= 64:
        raise UserError(f"the secret in {path} must be whsec_ and 24 to 64 bytes in base64")
    return found


def _make_secret(path: Path) -> None:
    text = _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    if path.exists():
        return
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")
    try:
        os.link(new, path)  # whole or not at all, and never over another's
    except FileExistsError:
        pass
    finally:
        new.unlink()


class Sender:
    """Sends what waits in the database; any number of them may run."""

    def __init__(self, database: Database, http: SafeHttp, secret: bytes, settings: JobSettings) -> None:
        self._database, self._http, self._secret, self._settings = database, http, secret, settings

    async def send_one(self) -> bool:
        """Try one message that is due; False where there is none."""
        # Whoever dies with it leaves it to the next after that time.
        held = 2 * self._settings.webhook_timeout
        delivery = await self._database.run(deliveries.take(WEBHOOK, held))
        if delivery is None:
            return False
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._settings.webhook_timeout):
                status, retry_after = await self._post(delivery)
        except Exception as error:  # whatever a stranger's address makes a library raise: it is a failed try
            status, retry_after, reason = 0, None, type(error).__name__
        else:
            reason = str(status)
        message = "webhook %s of %s: try %d: %s in %.1f s"
        took = time.monotonic() - began
        LOG.info(message, delivery.id, delivery.job_id, delivery.attempt, reason, took)
        await self._note(delivery, status, retry_after, reason)
        return True

    async def _post(self, delivery: Delivery) -> tuple[int, float | None]:
        body, timestamp = delivery.body.encode(), int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secret, delivery.id, timestamp, body),
        }
        client = self._http.client(delivery.url)
        # The body of the answer is not read.
        async with client.stream("POST", delivery.url, content=body, headers=headers) as answer:
            return answer.status_code, _retry_after(answer.headers.get("retry-after"))

    async def _note(self, delivery: Delivery, status: int, retry_after: float | None, reason: str) -> None:
        scale = self._settings.webhook_scale
        wait = wait_after(delivery.attempt, retry_after, random.random(), scale)
        if 200 <= status < 300:
            work = deliveries.arrived(delivery)
        elif status == 410:
            work = deliveries.disable(delivery)
        elif wait is None:
            work = deliveries.give_up(delivery, reason)
        else:
            work = deliveries.again(delivery, wait, reason)
        await self._database.run(work)


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After, a number or a date."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
