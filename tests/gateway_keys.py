"""The command that makes keys, and gateways that want them."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gateway_process import PYTHON, GatewayProcess
from openai import OpenAI


def access(database: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run python -m ko_asr.gateway.access."""
    command = [PYTHON, "-m", "ko_asr.gateway.access", *arguments, "--database", database]
    return subprocess.run(command, capture_output=True, text=True, check=check, cwd="/")


@dataclass
class Keys:
    """The keys of one database."""

    database: str

    def create(self, *limits: str) -> str:
        """A new key."""
        made = access(self.database, "create", "--name", "시험", "--json", *limits)
        return json.loads(made.stdout)["key"]

    def revoke(self, key: str) -> None:
        """End a key."""
        access(self.database, "revoke", id_of(key))

    def usage(self, key: str) -> tuple[int, int, float]:
        """Requests, streams, seconds that the database counts."""
        rows = json.loads(access(self.database, "usage", id_of(key), "--json").stdout)
        return tuple(sum(row[name] for row in rows) for name in ("requests", "streams", "seconds"))


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
