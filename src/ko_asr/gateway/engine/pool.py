"""The servers of one version: whichever of them is healthy and has least to do is asked next."""

import asyncio
import contextlib
import functools
import itertools
import logging
from collections.abc import Collection

from ko_asr.gateway.engine.server import Server
from ko_asr.gateway.settings.addresses import Address
from ko_asr.gateway.settings.engine import Group

LOG = logging.getLogger("ko_asr.gateway")
_LOOK_UP_SECONDS = 3.0  # between look-ups of a name


class Pool:
    """The servers behind the addresses of ``group``."""

    def __init__(self, group: Group, timeout: float, health_timeout: float = 10.0) -> None:
        """Connect in a running loop to what needs no look-up. The timeouts are those of `TritonEngine`."""
        self._make = functools.partial(Server, version=group.version, timeout=timeout, silence=health_timeout)
        self._turn = itertools.count()
        self._servers: dict[str, Server] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._looked_up = asyncio.Event()
        plain = [address for address in group.addresses if not address.many]
        names = [address for address in group.addresses if address.many]
        self._fixed = {f"{address.host}:{address.port}" for address in plain}
        for url in sorted(self._fixed):
            self._servers[url] = self._make(url)
        self._following = asyncio.create_task(self._follow(names))

    @property
    def servers(self) -> list[Server]:
        """The servers now."""
        return list(self._servers.values())

    async def close(self) -> None:
        """Close all connections."""
        tasks = [self._following, *self._leaving]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await asyncio.gather(*(server.close() for server in self.servers))

    async def candidates(self, tried: Collection[Server] = ()) -> list[Server]:
        """The healthy servers but those in ``tried``; those that follow from names are waited for."""
        await self._looked_up.wait()
        return [server for server in self.servers if server.healthy and server not in tried]

    async def for_file(self, tried: Collection[Server] = ()) -> Server | None:
        """The server that a file goes to; None where none is left."""
        found, turn = await self.candidates(tried), next(self._turn)
        return min(_from(found, turn), key=lambda s: (s.files_in_flight, s.streams_in_flight), default=None)

    async def for_stream(self, tried: Collection[Server] = ()) -> Server | None:
        """The server that a stream goes to; None where none is left."""
        found, turn = await self.candidates(tried), next(self._turn)
        return min(_from(found, turn), key=lambda s: (s.streams_in_flight, s.files_in_flight), default=None)

    async def _follow(self, names: list[Address]) -> None:
        known: dict[Address, list[str]] = {}
        while names:
            for name in names:
                try:
                    known[name] = await name.resolve()
                except OSError as error:  # what was found before stays
                    LOG.warning("%s: %s", name, error)
            await self._change(self._fixed.union(*known.values()))
            self._looked_up.set()
            await asyncio.sleep(_LOOK_UP_SECONDS)
        self._looked_up.set()

    async def _change(self, urls: set[str]) -> None:
        """Let new servers in once they answer, and those that are gone out once they have ended."""
        first = not self._looked_up.is_set()
        for url in sorted(urls - set(self._servers)):
            LOG.info("a Triton server more, at %s", url)
            self._servers[url] = self._make(url, healthy=first)
        for url in set(self._servers) - urls:
            LOG.info("a Triton server less, at %s", url)
            leaving = asyncio.create_task(_leave(self._servers.pop(url)))
            self._leaving.add(leaving)
            leaving.add_done_callback(self._leaving.discard)


def _from(servers: list[Server], turn: int) -> list[Server]:
    """The servers in a circle, from another one each turn: so equals get theirs one after the other."""
    start = turn % len(servers) if servers else 0
    return servers[start:] + servers[:start]


async def _leave(server: Server) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while server.busy:
            await asyncio.sleep(0.5)
    await server.close()
