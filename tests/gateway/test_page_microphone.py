"""The page with a microphone, in a real Chromium that is fed from a file."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
import soxr

pytest.importorskip("playwright.sync_api", reason="no playwright here: see requirements-dev.txt")
from gateway_browser import SPEECH, launch, needs_chromium, opened, speaking
from gateway_process import GatewayProcess
from playwright.sync_api import Browser, Page, Playwright, expect, sync_playwright

from ko_asr.audio.read import read_audio
from ko_asr.client.streaming import StreamingClient
from ko_asr.data.manifest import read_manifest

pytestmark = needs_chromium
RATE = 16_000
TOLERANCE = 0.3  # CER: the browser begins somewhere within a frame, and the model of the tests is unsure


@pytest.fixture(scope="module")
def speech(files: list[Path]) -> np.ndarray:
    """A moment of quiet, and two utterances; the last one ends with the file."""
    noise = np.random.default_rng(0).normal(0, 1e-3, RATE).astype(np.float32)
    first, second = (read_audio(file) for file in files[:2])
    return np.concatenate([noise, first, noise, second])


@pytest.fixture(scope="module")
def streamed(asr_server: str, speech: np.ndarray) -> str:
    """What the gRPC client gets of it."""
    with StreamingClient(asr_server) as client, client.open() as stream:
        results = stream.send(speech) + stream.finish()
    return " ".join(result.text for result in results if result.is_final and result.text)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as running:
        yield running


@pytest.fixture(scope="module")
def browser(playwright: Playwright, speech: np.ndarray, tmp_path_factory) -> Iterator[Browser]:
    wav = tmp_path_factory.mktemp("microphone") / "speech.wav"
    soundfile.write(wav, soxr.resample(speech, RATE, 48_000), 48_000, subtype="PCM_16")
    running = launch(playwright, *speaking(wav))
    yield running
    running.close()


@pytest.fixture(scope="module")
def live(asr_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("live")
    with GatewayProcess(asr_server, folder / "g", "--corrections", str(folder / "corrections")) as running:
        running.corrections = folder / "corrections"
        yield running


def start(page: Page) -> float:
    """Press the button; when the microphone was open."""
    page.click("#microphone")
    page.wait_for_selector("body[data-state=listening]")
    return time.monotonic()


def stop_at(page: Page, began: float, seconds: float) -> str:
    """Press it again when so much was spoken; the text of the newest take, when all of it is there."""
    page.wait_for_timeout(max(0.0, 1000 * (began + seconds - time.monotonic())))
    page.click("#microphone")
    page.wait_for_selector("body[data-state=idle]")
    assert page.locator("body[data-trouble]").count() == 0, page.inner_text("#status")
    expect(page.locator(".partial:visible")).to_have_count(0)
    return " ".join(" ".join(page.locator(".take").first.locator(".words").all_inner_texts()).split())


def test_speech_is_shown_while_it_lasts_and_to_its_last_word(browser, live, speech, streamed: str) -> None:
    seconds = len(speech) / RATE
    with opened(browser, live.url) as page:
        began = start(page)
        page.wait_for_selector(".partial:visible")
        page.wait_for_selector(".utterance")
        text = stop_at(page, began, seconds + 0.3)
        assert jiwer.cer(streamed, text) <= TOLERANCE, (streamed, text)
        assert text.split()[-1] == streamed.split()[-1]
        assert page.locator(".latency").count() == page.locator(".utterance").count()
        assert page.locator(".pause").count() >= 1
        page.locator(".play").last.click()
        page.wait_for_function("() => !document.getElementById('player').paused")
        row = page.locator(".utterance").last
        row.locator(".wrong").click()
        row.locator("input[type=checkbox]").check()
        row.locator("button[type=submit]").click()
        expect(row.locator(".correction-status")).to_contain_text("저장했습니다")
        (entry,) = read_manifest(live.corrections / "corrections.jsonl")
        assert entry["model"] == "asr_streaming" and 1 < entry["duration"] < 6

        again = stop_at(page, start(page), seconds / 2)
        assert page.locator(".take").count() == 2
        assert again and jiwer.cer(streamed[: len(again)], again) < 0.5


def test_a_gateway_that_dies_loses_nothing(browser, live, speech, streamed: str) -> None:
    with opened(browser, live.url, but="WebSocket") as page:
        began = start(page)
        page.wait_for_selector(".utterance")
        page.wait_for_selector(".partial:visible")
        live.process.kill()
        expect(page.locator("#status")).to_contain_text("연결이 끊겼습니다")
        live.__enter__()
        page.wait_for_selector("body[data-state=listening]", timeout=60_000)
        text = stop_at(page, began, len(speech) / RATE + 0.3)
    assert jiwer.cer(streamed, text) <= TOLERANCE, (streamed, text)


def test_keywords_go_with_a_session_that_is_thrown_away(browser, live) -> None:
    sent: list[str] = []
    with opened(browser, live.url) as page:
        page.on("websocket", lambda socket: socket.on("framesent", lambda frame: sent.append(str(frame))))
        page.click("#options summary")
        page.fill("#keywords", "토끼, 대전:2 ,")
        start(page)
        page.wait_for_selector(".partial:visible")
        page.click(".remove")
        page.wait_for_selector("body[data-state=idle]")
        assert page.locator(".take").count() == 0
        deadline = time.monotonic() + 20
        while live.figure("streams_open"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    session = json.loads(sent[0])["session"]
    assert session["audio"]["input"]["transcription"]["keywords"] == ["토끼", "대전:2"]


def test_a_denied_microphone_is_told(playwright: Playwright, live) -> None:
    with launch(playwright, SPEECH[1]) as asking, opened(asking, live.url) as page:
        page.click("#microphone")
        expect(page.locator("#status")).to_contain_text("거부")
