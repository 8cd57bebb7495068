"""Audio from an address that a job names: of hosts on a list, streamed, counted."""

import asyncio
from pathlib import Path
from typing import BinaryIO

import httpx
from ssrfguard import SSRFGuardError

from ko_asr.gateway.audio.folders import room_on_disk
from ko_asr.gateway.audio.upload import too_large
from ko_asr.gateway.errors import ApiError
from ko_asr.gateway.jobs.safe_http import SafeHttp, host_of

_LONGEST = 3600.0  # seconds for all of it
_CHUNK = 1 << 20


class Download:
    """What may be fetched, and fetching it."""

    def __init__(self, http: SafeHttp, hosts: tuple[str, ...], most: int) -> None:
        """``hosts`` that may be named; ``most`` bytes of a file."""
        self._http, self._hosts, self._most = http, hosts, most

    def check(self, url: str) -> str:
        """``url``, where jobs may name it. ApiError."""
        if not self._hosts:
            raise ApiError(400, "url is not offered here: send the audio as file", param="url")
        if host_of(url) not in self._hosts:
            sentence = f"url: audio is taken from {', '.join(self._hosts)} only"
            raise ApiError(400, sentence, param="url", code="host_not_allowed")
        return self._http.check(url, "url")

    async def get(self, url: str, target: Path) -> None:
        """Fetch ``url`` into ``target``. ApiError: 502 where trying again may help."""
        self.check(url)
        try:
            request = self._http.client(url).stream("GET", url, headers={"accept-encoding": "identity"})
            async with asyncio.timeout(_LONGEST), request as answer:
                _check_status(answer.status_code)
                with target.open("wb") as file:
                    await self._save(answer, file)
        except SSRFGuardError as error:
            raise ApiError(400, "url leads to an inside address", param="url", code="url_refused") from error
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            reason = type(error).__name__
            raise ApiError(
                502, f"url cannot be fetched ({reason})", param="url", code="url_failed"
            ) from error

    async def _save(self, answer: httpx.Response, file: BinaryIO) -> None:
        count = 0
        # As sent: what unpacks to more than it is must not be unpacked here.
        async for chunk in answer.aiter_raw(_CHUNK):
            count += len(chunk)
            if count > self._most:
                raise too_large(self._most, "url")
            with room_on_disk():
                await asyncio.to_thread(file.write, chunk)


def _check_status(status: int) -> None:
    if status == 200:
        return
    come_again = status >= 500 or status in (408, 429)
    raise ApiError(
        502 if come_again else 400,
        f"url answers {status}" + (", and redirects are not followed" if 300 <= status < 400 else ""),
        param="url",
        code="url_failed",
    )
