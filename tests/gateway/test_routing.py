"""Several servers behind one gateway: one of them hangs, comes back, and dies under streams and files."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateway_process import GatewayProcess

from ko_asr import score
from ko_asr.audio.read import read_audio
from ko_asr.client.connection import ServerUnavailable
from ko_asr.gateway.engine.pool import Pool
from ko_asr.gateway.engine.triton import TritonEngine
from ko_asr.gateway.settings.addresses import DEFAULT_VERSION, Address
from ko_asr.gateway.settings.engine import Group
from ko_asr.runtime.options import StreamOptions
from ko_asr.serving.server import TritonServer, free_ports

WHOLE = StreamOptions(endpointing=None)
PACKET = 1600  # samples
STREAMS = 6


def group(*urls: str) -> Group:
    return Group(DEFAULT_VERSION, tuple(map(Address.parse, urls)))


@pytest.fixture(scope="module")
def mortal(demo, both_models: Path) -> Iterator[TritonServer]:
    """A server, at every address of this machine, that the tests may stop and in the end kill."""
    with TritonServer(both_models, demo.server, ["--grpc-address=0.0.0.0"]) as server:
        yield server


@pytest.fixture(scope="module")
def routed(mortal: TritonServer, asr_server: str, tmp_path_factory) -> Iterator[GatewayProcess]:
    """A gateway before a mortal server and another one."""
    folder = tmp_path_factory.mktemp("routed") / "g"
    with GatewayProcess(mortal.url, folder, "--triton", asr_server, "--health-timeout", "2") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def texts(gateway: GatewayProcess, files: list[Path]) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(gateway.text, files))


def wait(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def figure(gateway: GatewayProcess, name: str, server: str) -> float:
    page = httpx.get(f"{gateway.url}/metrics").text
    found = re.search(rf'^ko_asr_gateway_server_{name}{{server="{server}".*}} (\S+)$', page, re.MULTILINE)
    assert found, page
    return float(found[1])


def test_both_servers_work(
    routed: GatewayProcess, mortal: TritonServer, asr_server: str, files: list[Path], texts: list[str]
) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(routed.text, files)) == texts
    shares = [figure(routed, "files_total", url) for url in (mortal.url, asr_server)]
    assert min(shares) >= 0.25 * sum(shares) and sum(shares) >= len(files)
    assert figure(routed, "files_in_flight", mortal.url) == 0


def test_a_server_that_hangs_is_left_out_and_taken_back(
    routed: GatewayProcess, mortal: TritonServer, files: list[Path], texts: list[str]
) -> None:
    os.kill(mortal.process.pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(routed.text, files[:8]))  # those that hang there are done elsewhere
        assert found == texts[:8]
        assert figure(routed, "healthy", mortal.url) == 0
        assert httpx.get(f"{routed.url}/health/ready", timeout=30).status_code == 200
    finally:
        os.kill(mortal.process.pid, signal.SIGCONT)
    wait(lambda: figure(routed, "healthy", mortal.url) == 1)
    before = figure(routed, "files_total", mortal.url)
    assert [routed.text(file) for file in files[:4]] == texts[:4]
    assert figure(routed, "files_total", mortal.url) > before


def test_a_name_is_followed(
    mortal: TritonServer, files: list[Path], texts: list[str], tmp_path: Path
) -> None:
    """A name that gets a second address and loses its first one, in a hosts file of the gateway's own."""
    hosts, port = tmp_path / "hosts", mortal.url.rpartition(":")[2]
    hosts.write_text("127.0.0.1 localhost triton.test\n", encoding="utf-8")
    unshare = [str(shutil.which("unshare")), "-m" if os.geteuid() == 0 else "-rm"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mount namespace: this takes root or user namespaces")
    own_hosts = ("sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh")
    with GatewayProcess(f"dns:triton.test:{port}", tmp_path / "g", prefix=(*unshare, *own_hosts)) as gateway:
        assert gateway.text(files[0]) == texts[0]
        with hosts.open("a", encoding="utf-8") as file:
            file.write("127.0.0.2 triton.test\n")
        wait(lambda: gateway.figure("server_healthy") == 2)
        assert [gateway.text(file) for file in files[:4]] == texts[:4]
        assert figure(gateway, "files_total", f"127.0.0.2:{port}") >= 2
        hosts.write_text("127.0.0.2 localhost triton.test\n", encoding="utf-8")
        wait(lambda: gateway.figure("server_healthy") == 1)
        assert gateway.text(files[0]) == texts[0]


async def streamed(engine: TritonEngine, audio: np.ndarray, options: StreamOptions, meanwhile=None) -> str:
    """The text of a stream at ten times real time; ``meanwhile`` is done halfway."""
    stream = await engine.open_stream(options)
    packets = [audio[start : start + PACKET] for start in range(0, len(audio), PACKET)]
    for number, packet in enumerate(packets):
        await stream.send(packet)
        await asyncio.sleep(0.01)
        if meanwhile is not None and number == len(packets) // 2:
            await meanwhile()
    await stream.finish()
    finals = [result.text async for result in stream if result.is_final and result.text]
    await stream.close()
    return " ".join(finals)


def test_a_server_dies_under_streams_and_files(
    routed: GatewayProcess, mortal: TritonServer, asr_server: str, files: list[Path], texts: list[str]
) -> None:
    pause = np.zeros(16_000, np.float32)
    audio = np.concatenate([part for file in files[:3] for part in (read_audio(file), pause)])
    options = [WHOLE, StreamOptions()]

    async def run() -> None:
        alone = TritonEngine([group(asr_server)], 60.0)
        wanted = [await streamed(alone, audio, one) for one in options]
        await alone.close()
        engine = TritonEngine([group(mortal.url, asr_server)], 60.0)
        halfway = asyncio.Barrier(STREAMS)

        async def kill() -> None:
            if await halfway.wait() == 0:
                assert sum(s.streams_in_flight for s in engine.servers) == STREAMS
                assert all(server.streams_in_flight == STREAMS // 2 for server in engine.servers)
                os.kill(mortal.process.pid, signal.SIGKILL)

        found = await asyncio.gather(*(streamed(engine, audio, options[n % 2], kill) for n in range(STREAMS)))
        # What was not final is heard again without what came before: a small model may spell it otherwise.
        undisturbed = [text == wanted[n % 2] for n, text in enumerate(found)]
        assert sum(undisturbed) >= STREAMS // 2
        assert all(score(wanted[n % 2], text).cer < 0.25 for n, text in enumerate(found)), found
        assert [server.healthy for server in engine.servers] == [
            server.url == asr_server for server in engine.servers
        ]
        assert not any(server.busy for server in engine.servers)
        await engine.close()

    over = threading.Event()

    def keep_asking(number: int) -> bool:
        number, same = 10 * number, True
        while not over.is_set():
            number += 1
            same = same and routed.text(files[number % len(files)]) == texts[number % len(files)]
        return same

    with ThreadPoolExecutor(3) as pool:
        same = pool.map(keep_asking, range(3))
        try:
            asyncio.run(run())
            wait(lambda: figure(routed, "healthy", mortal.url) == 0)
        finally:
            over.set()
        assert all(same)
    assert figure(routed, "files_in_flight", mortal.url) == 0


def test_no_server_is_left(tmp_path: Path) -> None:
    async def run() -> None:
        engine = TritonEngine([group(*(f"127.0.0.1:{port}" for port in free_ports(2)))], 60.0)
        with pytest.raises(ServerUnavailable):
            await engine.transcribe(np.zeros(16_000, np.float32))
        with pytest.raises(ServerUnavailable):
            await engine.open_stream(StreamOptions())
        await engine.close()

    asyncio.run(run())


def test_a_server_that_leaves_a_name_ends_what_it_has(
    asr_server: str, files: list[Path], monkeypatch
) -> None:
    port = int(asr_server.rpartition(":")[2])
    addresses = [["127.0.0.1"], ["127.0.0.1", "127.0.0.2"], ["127.0.0.2"], []]

    def getaddrinfo(host: str, *rest: object, **more: object) -> list:
        assert host == "triton.test"
        if not addresses[0]:
            raise socket.gaierror("Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses[0]]

    async def run() -> None:
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr("ko_asr.gateway.engine.pool._LOOK_UP_SECONDS", 0.05)
        pool = Pool(group(f"dns:triton.test:{port}"), 60.0)
        first = await pool.for_file()
        assert first is not None and first.url == asr_server
        while len(pool.servers) == 1:
            addresses[:] = addresses[1:] if len(addresses) == 4 else addresses
            await asyncio.sleep(0.01)
        second = next(server for server in pool.servers if server is not first)
        assert not second.healthy  # until it has answered
        asking = asyncio.create_task(first.transcribe(read_audio(files[0])))
        await asyncio.sleep(0)
        addresses.pop(0)
        while first in pool.servers:
            await asyncio.sleep(0.01)
        assert (await asking).text
        addresses.pop(0)
        await asyncio.sleep(0.2)
        assert pool.servers == [second]  # a name that is not found changes nothing
        await pool.close()

    asyncio.run(run())
