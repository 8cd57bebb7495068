"""recipes/stream_client.py on files that cannot be read to their end, with a stand-in for the server."""

import argparse
import asyncio
import runpy
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ko_asr.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = runpy.run_path(str(ROOT / "recipes/stream_client.py"))


class Stream:
    """A stream that ends when it is finished, as the real one does."""

    def __init__(self) -> None:
        self._done = asyncio.Event()

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send(self, packet: np.ndarray) -> None:
        pass

    async def finish(self) -> None:
        self._done.set()

    async def __aiter__(self):
        await self._done.wait()
        return
        yield


class Client:
    async def open(self, options: object) -> Stream:
        return Stream()


@pytest.mark.parametrize("name", ["nan.wav", "cut.flac"])
def test_a_failure_in_reading_ends_the_stream(tmp_path: Path, name: str) -> None:
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 16_000 * 20)
    path = tmp_path / name
    if name == "nan.wav":
        samples[200_000] = np.nan
        soundfile.write(path, samples, 16_000, "FLOAT")
    else:
        soundfile.write(path, samples, 16_000)
        path.write_bytes(path.read_bytes()[:300_000])
    args = argparse.Namespace(
        packet_ms=40.0, whole=False, silence_ms=None, keyword=[], json=False, realtime=False,
        concurrency=1, files=[path], finish=None,
    )  # fmt: skip
    with pytest.raises(UserError, match=name):
        asyncio.run(asyncio.wait_for(SCRIPT["stream_file"](args, Client(), path), 20))
