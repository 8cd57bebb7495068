"""Long recordings beside short ones, on a real server: who waits, what is heard, what memory stays."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton

from ko_asr.audio.read import read_audio
from ko_asr.client.offline import AsrClient
from ko_asr.data.manifest import read_manifest
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.serving.server import TritonServer

LONGEST = 60 * SAMPLE_RATE


@pytest.fixture(scope="module")
def server(demo) -> Iterator[TritonServer]:
    with TritonServer(demo.repository, demo.server) as running:
        yield running


@pytest.fixture(scope="module")
def short(demo) -> np.ndarray:
    return read_audio(next(iter(read_manifest(demo.manifests["eval_clean"])))["audio_filepath"])


@pytest.fixture(scope="module")
def long(demo) -> np.ndarray:
    """A minute of utterances, with the silence that parts them."""
    entries = read_manifest(demo.manifests["eval_clean"])
    gap = np.zeros(SAMPLE_RATE // 2, np.float32)
    pieces = [piece for entry in entries for piece in (read_audio(entry["audio_filepath"]), gap)]
    return np.concatenate(pieces)[:LONGEST]


def text(url: str, audio: np.ndarray) -> str:
    with AsrClient(url, timeout=120) as client:
        return client.transcribe(audio).text


def encoders(server: TritonServer) -> list[Path]:
    """The folders in /proc of the processes in which the encoder's sessions live."""
    assert server.process is not None
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        parent = path.with_name("stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
        if int(parent) == server.process.pid and "/asr_encoder/" in path.read_text(encoding="utf-8"):
            found.append(path.parent)
    assert found
    return found


def encoder_memory(server: TritonServer) -> float:
    """Resident MB of the encoders."""
    lines = [line for one in encoders(server) for line in (one / "status").read_text("utf-8").splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def test_short_clips_do_not_wait_for_long_ones(server, short, long) -> None:
    """With one queue for all, each short clip would wait for a long one, the last for all of them."""
    alone = text(server.url, short), text(server.url, long)
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(text, server.url, long) for _ in range(8)]
        time.sleep(0.3)
        heard = [text(server.url, short) for _ in range(10)]
        waiting = sum(not answer.done() for answer in answers)
        assert [answer.result() for answer in answers] == [alone[1]] * 8
    assert heard == [alone[0]] * 10
    assert waiting, "ten short clips took longer than eight of a minute"


def test_memory_of_long_clips_comes_back(demo, short, long) -> None:
    with TritonServer(demo.repository, demo.server) as server:
        for _ in range(10):
            text(server.url, short)
        before = encoder_memory(server)
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(text, server.url, long) for _ in range(8)]
            most = before
            while not all(answer.done() for answer in answers):
                most = max(most, encoder_memory(server))
                time.sleep(0.1)
        deadline = time.monotonic() + 20
        while (after := encoder_memory(server)) > 1.2 * before and time.monotonic() < deadline:
            time.sleep(0.2)
        assert most > 2 * before, "the clips took no memory that could come back"
        assert after <= 1.2 * before
    printed = re.search(r"memory of an encoder process: (\d+) MB, and up to (\d+) MB more", demo.output)
    assert printed
    idle, clip = map(int, printed.groups())
    assert 0.6 < before / (2 * idle) < 1.5
    assert most < 2 * idle + 4 * clip  # either process may have both clips that are being run


def test_requests_that_the_graph_refuses_do_not_stop_long_clips(server, short, long) -> None:
    """The encoder can be asked by anyone. Of what it remembers nothing may fail when memory is given back."""
    wanted = text(server.url, long)
    with triton.InferenceServerClient(server.url) as client:
        for frames, words in ((0, "features is empty"), (7000, "7000 steps; the most is 6000")) * 4:
            features = triton.InferInput("features", [1, 80, frames], "FP32")
            features.set_data_from_numpy(np.zeros((1, 80, frames), np.float32))
            length = triton.InferInput("length", [1, 1], "INT64")
            length.set_data_from_numpy(np.array([[frames]], np.int64))
            with pytest.raises(triton.InferenceServerException, match=words):
                client.infer("asr_encoder", [features, length], client_timeout=30)
    for _ in range(3):
        assert [text(server.url, long) for _ in range(2)] == [wanted] * 2
        time.sleep(1.5)  # memory is given back after a second
