"""The command that makes keys, and gateways that want them."""

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gateway_process import PYTHON, GatewayProcess
from openai import OpenAI

from ko_asr.gateway.access import store
from ko_asr.gateway.access.key import Limits, text_of
from ko_asr.gateway.access.store import Usage
from ko_asr.gateway.database import Database


def access(database: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run python -m ko_asr.gateway.access."""
    command = [PYTHON, "-m", "ko_asr.gateway.access", *arguments, "--database", database]
    return subprocess.run(command, capture_output=True, text=True, check=check, cwd="/")


@dataclass
class Keys:
    """The keys of one database, without a process for each."""

    database: str

    def create(self, metrics: bool = False, **limits: float) -> str:
        """A new key."""
        key, secret = self._run(lambda to: store.create(to, "시험", Limits(**limits), metrics))
        return text_of(key.id, secret)

    def revoke(self, key: str) -> None:
        """End a key."""
        assert self._run(lambda to: store.revoke(to, id_of(key)))

    def usage(self, key: str) -> tuple[int, int, float]:
        """Requests, streams, seconds that the database counts."""
        rows = self._run(lambda to: store.usage(to, id_of(key), "2026-01-01"))
        used = sum((row.usage for row in rows), Usage())
        return used.requests, used.streams, used.seconds

    def _run(self, work):
        with contextlib.closing(Database(self.database)) as database:
            return database.run_now(work)


def id_of(key: str) -> str:
    """The public part of a key."""
    return key.split("-")[2]


def client(gateway: GatewayProcess, key: str, retries: int = 0) -> OpenAI:
    """OpenAI's own client with a key."""
    return OpenAI(base_url=f"{gateway.url}/v1", api_key=key, max_retries=retries, timeout=60)


def transcribe(gateway: GatewayProcess, key: str, file: Path, retries: int = 0) -> str:
    """The text of a file."""
    with file.open("rb") as audio:
        return client(gateway, key, retries).audio.transcriptions.create(model="asr", file=audio).text
