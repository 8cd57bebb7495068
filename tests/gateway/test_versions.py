"""Shares of versions, sticky by caller, and a shadow that is compared and never answers."""

import argparse
import asyncio
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from gateway_keys import Keys, client, id_of
from gateway_live import TRANSCRIPTION, append, events_until, linear16, rtzr, rtzr_address
from gateway_process import GatewayProcess
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.audio.read import read_audio
from ko_asr.client.connection import ServerUnavailable
from ko_asr.client.offline import Transcription
from ko_asr.errors import UserError
from ko_asr.gateway.engine.shadow import Shadow, ShadowedEngine
from ko_asr.gateway.engine.versions import order
from ko_asr.gateway.settings.engine import EngineSettings
from ko_asr.serving.server import free_ports

KEYS = [f"key {number}" for number in range(2000)]
WEIGHTS = st.dictionaries(st.sampled_from(["v1", "v2", "v3", "v4"]), st.floats(0, 100), min_size=1)


@given(WEIGHTS, st.text())
def test_a_key_always_asks_the_same_version_first(weights: dict[str, float], key: str) -> None:
    found = order(key, weights)
    assert sorted(found) == sorted(weights)
    assert found == order(key, dict(reversed(weights.items())))
    first = weights[found[0]]
    assert first > 0 or not any(weights.values())


def test_the_shares_are_those_of_the_weights() -> None:
    counts = Counter(order(key, {"v1": 95, "v2": 5})[0] for key in KEYS)
    assert counts["v2"] == pytest.approx(0.05 * len(KEYS), rel=0.3)


def test_a_greater_share_moves_nobody_away_from_it() -> None:
    before = {key for key in KEYS if order(key, {"v1": 95, "v2": 5})[0] == "v2"}
    after = {key for key in KEYS if order(key, {"v1": 50, "v2": 50})[0] == "v2"}
    assert before < after and len(after) == pytest.approx(0.5 * len(KEYS), rel=0.1)


def test_a_canary_through_the_front_door(asr_server: str, files: list[Path], tmp_path: Path) -> None:
    """Two versions of one server, and a third whose servers are gone; with keys, and without."""
    gone = f"127.0.0.1:{free_ports(1)[0]}"
    arguments = ["--triton", f"v2={asr_server}", "--triton", f"v3={gone}"]
    weights = ["--weight", "v1=50", "--weight", "v2=25", "--weight", "v3=25"]
    audio, keys = files[2].read_bytes(), Keys(f"sqlite:///{tmp_path / 'gateway.db'}")

    def version(key: str) -> str:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        answer = gateway.post("/v1/transcribe", headers=headers, files={"audio": audio})
        assert answer.raise_for_status().json()["text"]
        return answer.headers["x-model-version"]

    with (
        GatewayProcess(
            f"v1={asr_server}", tmp_path / "g", *arguments, *weights, "--keys", "--database", keys.database
        ) as gateway,
        ThreadPoolExecutor(4) as pool,
    ):
        callers = [keys.create() for _ in range(24)]
        first = list(pool.map(version, callers))
        assert first == list(pool.map(version, callers))  # the same caller, the same version
        wanted = [order(id_of(caller), {"v1": 50, "v2": 25, "v3": 25}) for caller in callers]
        assert first == [next(v for v in one if v != "v3") for one in wanted]
        for caller, wanted_version in zip(callers[:3], first, strict=False):
            assert live_versions(gateway, caller, read_audio(files[0])) == {wanted_version}
        page = httpx.get(f"{gateway.url}/metrics").text
    assert re.search(r'server_files_total{server="[\d.:]+",version="v2"} \d', page)
    assert re.search(rf'server_healthy{{server="{gone}",version="v3"}} 0.0', page)
    with (
        GatewayProcess(f"v1={asr_server}", tmp_path / "open", *arguments, *weights) as gateway,
        ThreadPoolExecutor(4) as pool,
    ):
        assert set(pool.map(version, [""] * 24)) == {"v1", "v2"}


def live_versions(gateway: GatewayProcess, key: str, audio: np.ndarray) -> set[str]:
    """What the finals of both live APIs tell."""
    address = rtzr_address(gateway.url, sample_rate=16_000, encoding="LINEAR16")
    headers = {"authorization": f"Bearer {key}"}
    answers, _, _ = asyncio.run(rtzr(address, [linear16(audio, 16_000), "EOS"], headers))
    found = {answer["model_version"] for answer in answers if answer["final"]}
    with client(gateway, key).realtime.connect(extra_query={"intent": "transcription"}) as connection:
        append(connection, linear16(audio, 24_000))
        connection.input_audio_buffer.commit()
        completed = events_until(connection, f"{TRANSCRIPTION}.completed")[-1]
    return {*found, completed.model_version}


class Parrot:
    """An engine that says one thing, or fails."""

    def __init__(self, text: str | None) -> None:
        self.text, self.heard = text, 0

    async def transcribe(
        self, samples: np.ndarray, key: str = "", keywords: tuple[str, ...] = ()
    ) -> Transcription:
        self.heard += 1
        await asyncio.sleep(0)
        if self.text is None:
            raise ServerUnavailable("UNAVAILABLE", "gone")
        return Transcription(self.text, 1.0)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(("said", "cer"), [("가나다라", 0.0), ("가나다마", 0.25), (None, 0.0)])
def test_a_shadow_is_compared(said: str | None, cer: float) -> None:
    async def run() -> None:
        answers, listens = Parrot("가나다라"), Parrot(said)
        shadow = Shadow(listens, share=1.0)
        engine = ShadowedEngine(answers, shadow)
        for _ in range(200):  # it has room for fewer, and nobody waits for it
            assert (await engine.transcribe(np.zeros(1, np.float32))).text == "가나다라"
        while listens.heard < 200 - shadow.dropped:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert shadow.compared + shadow.failed + shadow.dropped == 200
        assert (shadow.cer, bool(shadow.failed)) == (cer, said is None)
        assert shadow.different == (shadow.compared if cer else 0)
        await engine.close()

    asyncio.run(run())


def test_a_share_of_the_files() -> None:
    async def run() -> None:
        shadow = Shadow(Parrot("가"), share=0.3)
        for _ in range(1000):
            shadow.offer(np.zeros(1, np.float32), "가", ())
            await asyncio.sleep(0)
        while shadow._waiting.qsize():
            await asyncio.sleep(0)
        assert shadow.compared + shadow.dropped == pytest.approx(300, rel=0.25)
        await shadow.close()

    asyncio.run(run())


def test_a_shadow_through_the_front_door(asr_server: str, files: list[Path], tmp_path: Path) -> None:
    arguments = ["--shadow", f"v2={asr_server}", "--shadow-share", "1"]
    with GatewayProcess(asr_server, tmp_path / "g", *arguments) as gateway:
        assert all(gateway.text(file) for file in files[:4])
        while gateway.figure("shadow_compared_total") < 4:
            pass
        assert gateway.figure("shadow_different_total") == gateway.figure("shadow_cer") == 0
        assert "v2" not in gateway.log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--triton", "nonsense"), "write HOST:PORT"),
        (("--triton", "v1=a:1", "--triton", "v2=b:1", "--weight", "v2=5"), "name the same versions in both"),
        (("--weight", "default=often"), "write VERSION=N"),
        (("--shadow", "a=x:1", "--shadow", "b=y:1"), "one can be compared"),
        (("--shadow-share", "7"), "0 to 1"),
        (("--engine", "embedded", "--triton", "a:1"), "asks no server"),
        (("--health-timeout", "0"), "must be positive"),
    ],
)
def test_options_that_cannot_be_meant_are_one_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    parser = argparse.ArgumentParser()
    EngineSettings.add_options(parser)
    with pytest.raises(UserError, match=sentence):
        EngineSettings.of(parser.parse_args(arguments))
