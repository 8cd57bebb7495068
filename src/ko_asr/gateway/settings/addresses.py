"""Addresses of servers: HOST:PORT, or a DNS name that stands for many and is looked up again and again."""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass

from ko_asr.errors import UserError

DEFAULT_VERSION = "default"
_DNS = "dns:"


@dataclass(frozen=True)
class Address:
    """``host`` and ``port`` of a server; with ``many`` the host is a name with a server at each address."""

    host: str
    port: int
    many: bool = False

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read HOST:PORT or dns:NAME:PORT. UserError for anything else."""
        host, _, port = text.removeprefix(_DNS).rpartition(":")
        if not host or "=" in host or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise UserError(f"--triton {text} is no server: write HOST:PORT, or dns:NAME:PORT")
        return cls(host, int(port), text.startswith(_DNS))

    async def resolve(self) -> list[str]:
        """The HOST:PORT of every server, in one order. OSError when the name is not found now."""
        if not self.many:
            return [f"{self.host}:{self.port}"]
        found = await asyncio.get_running_loop().getaddrinfo(
            self.host, self.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
        return sorted({_written(str(entry[4][0]), self.port) for entry in found})

    def __str__(self) -> str:
        return f"{_DNS if self.many else ''}{self.host}:{self.port}"


def _written(host: str, port: int) -> str:
    return (
        f"[{host}]:{port}" if ipaddress.ip_address(host.partition("%")[0]).version == 6 else f"{host}:{port}"
    )


def split_version(text: str) -> tuple[str, str]:
    """Version and rest of ``v2=rest``; the default version where none is named."""
    version, equals, rest = text.partition("=")
    return (version, rest) if equals else (DEFAULT_VERSION, text)
