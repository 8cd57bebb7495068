"""The page in a real Chromium: files, words that play, subtitles, corrections, languages, phones."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile

pytest.importorskip("playwright.sync_api", reason="no playwright here: see requirements-dev.txt")
from gateway_browser import launch, needs_chromium, opened
from gateway_keys import Keys
from gateway_process import GatewayProcess
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ko_asr.audio.read import read_audio
from ko_asr.data.manifest import read_manifest

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = launch(playwright, "--host-resolver-rules=MAP asr-box 127.0.0.1")
        yield running
        running.close()


@pytest.fixture(scope="module")
def collecting(asr_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """A gateway that stores corrections."""
    folder = tmp_path_factory.mktemp("collecting")
    with GatewayProcess(asr_server, folder / "g", "--corrections", str(folder / "corrections")) as running:
        running.corrections = folder / "corrections"
        yield running


@pytest.fixture(scope="module")
def meeting(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three utterances with two seconds between them."""
    gap = np.zeros(32_000, np.float32)
    path = tmp_path_factory.mktemp("meeting") / "회의 1.wav"
    audio = np.concatenate([part for file in files[:3] for part in (read_audio(file), gap)])
    soundfile.write(path, audio, 16_000)
    return path


@pytest.fixture
def page(browser: Browser, collecting: GatewayProcess) -> Iterator[Page]:
    with opened(browser, collecting.url) as page:
        yield page


def transcribed(page: Page, path: Path) -> list[str]:
    """The utterances of a file, as the page shows them."""
    page.set_input_files("#file", path)
    page.wait_for_selector(".take .utterance")
    return [" ".join(text.split()) for text in page.locator(".words").all_inner_texts()]


def saved(page: Page, name: str) -> tuple[str, str]:
    """Name and content of a download."""
    with page.expect_download() as download:
        page.click(f".downloads button:has-text('{name}')")
    return download.value.suggested_filename, Path(download.value.path()).read_text(encoding="utf-8")


def test_a_file_becomes_text_subtitles_and_words_that_play(page, collecting, meeting: Path) -> None:
    with meeting.open("rb") as file:
        answers = {
            kind: collecting.sdk.audio.transcriptions.create(
                model="asr", file=file, response_format=kind, **granularities
            )
            for kind, granularities in (
                ("verbose_json", {"timestamp_granularities": ["word", "segment"]}),
                ("srt", {}),
                ("vtt", {}),
            )
            if file.seek(0) == 0
        }
    found = answers["verbose_json"]
    assert transcribed(page, meeting) == [segment.text for segment in found.segments]
    assert saved(page, "SRT") == ("회의 1.srt", answers["srt"])
    assert saved(page, "VTT") == ("회의 1.vtt", answers["vtt"])
    assert saved(page, "텍스트")[1].split() == found.text.split()
    assert page.locator(".pause").count() == len(found.segments) - 1
    number = len(found.words) // 2
    page.locator(".word").nth(number).click()
    page.wait_for_function("() => !document.getElementById('player').paused")
    start = page.evaluate("document.getElementById('player').currentTime")
    assert start == pytest.approx(found.words[number].start, abs=0.5)
    expect(page.locator(".play.on")).to_have_count(1)
    page.wait_for_selector(".word.now")
    page.click(".play.on")
    expect(page.locator(".play.on")).to_have_count(0)


def test_numbers_and_sentences_are_written(page, collecting, meeting: Path) -> None:
    form = {"model": "asr", "response_format": "verbose_json", "written": '{"punctuation": true}'}
    found = collecting.post(data=form, files={"file": meeting.read_bytes()}).json()
    page.click("#options summary")
    page.check("#written")
    texts = transcribed(page, meeting)
    assert texts == [segment["written"] for segment in found["segments"]]
    assert texts != [segment["text"] for segment in found["segments"]]


def test_words_are_reached_by_keys(page, meeting: Path) -> None:
    transcribed(page, meeting)
    words = page.locator(".words").first.locator(".word")
    words.first.focus()
    page.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.getElementById('player').paused")


def test_what_is_no_audio_is_refused_in_the_users_language(browser, collecting, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no audio", encoding="utf-8")
    for locale, said in (("ko-KR", "읽을 수 없는 형식"), ("en-GB", "cannot be read")):
        with opened(browser, collecting.url, locale, but="415") as page:
            page.set_input_files("#file", tmp_path / "notes.txt")
            expect(page.locator(".upload.failed .upload-status")).to_contain_text(said)
            page.click(".upload button")
            expect(page.locator(".upload")).to_have_count(0)


def test_a_correction_is_stored_with_consent_and_removed(page, collecting, meeting: Path) -> None:
    original = transcribed(page, meeting)[1]
    row = page.locator(".utterance").nth(1)
    row.locator(".wrong").click()
    row.locator("textarea").fill("주말에  햇빛이 밝아요\n그래서")
    row.locator("button[type=submit]").click()  # the browser asks for the tick
    manifest = collecting.corrections / "corrections.jsonl"
    assert not manifest.exists()
    row.locator("input[type=checkbox]").check()
    row.locator("button[type=submit]").click()
    expect(row.locator(".correction-status")).to_contain_text("저장했습니다")
    (entry,) = read_manifest(manifest)
    assert (entry["text"], entry["original"]) == ("주말에 햇빛이 밝아요 그래서", original)
    assert entry["model"] == "asr" and entry["time"].endswith("Z")
    clip = read_audio(entry["audio_filepath"])
    assert entry["duration"] == pytest.approx(len(clip) / 16_000, abs=1e-3) and 1 < entry["duration"] < 8
    assert np.abs(clip).max() > 0.01
    expect(row.locator(".words")).to_have_text("주말에 햇빛이 밝아요 그래서")
    row.locator("button:has-text('삭제')").click()
    expect(row.locator(".correction-status")).to_contain_text("삭제했습니다")
    assert not list(read_manifest(manifest)) and not list(collecting.corrections.glob("*.wav"))


def corrected(gateway: GatewayProcess, audio: bytes, **fields: str) -> httpx.Response:
    form = {"text": "가나", "original": "가 나", "model": "asr", "consent": "true"} | fields
    return gateway.post("/v1/corrections", data=form, files={"audio": ("../../clip.wav", audio)})


@pytest.mark.parametrize(
    "fields, param",
    [
        ({"consent": "false"}, "consent"),
        ({"text": " "}, "text"),
        ({"text": "가" * 1001}, "text"),
        ({"text": "가\x00"}, "text"),
        ({"model": "../asr"}, "model"),
        ({}, "audio"),
    ],
)
def test_what_is_no_correction_is_refused(collecting, files, fields: dict, param: str) -> None:
    answer = corrected(collecting, b"no audio" if not fields else files[0].read_bytes(), **fields)
    assert answer.status_code in (400, 415), answer.text
    assert answer.json()["error"]["param"] == param
    assert not list(collecting.corrections.glob("*.wav"))
    collecting.wait_until_empty()


def test_a_correction_is_nobody_elses(collecting, files: list[Path]) -> None:
    decomposed = "\u1112\u1161\u11ab"  # 한
    stored = corrected(collecting, files[0].read_bytes(), text=decomposed)
    assert stored.status_code == 201
    name, token = stored.json()["id"], stored.json()["token"]
    lines = (collecting.corrections / "corrections.jsonl").read_text(encoding="utf-8")
    assert json.loads(lines)["text"] == "한" and token not in lines

    def delete(name: str, token: str) -> int:
        address = f"{collecting.url}/v1/corrections/{name}"
        return httpx.delete(address, headers={"x-correction-token": token}).status_code

    assert [delete(name, "wrong"), delete("0" * 32, token), delete("..%2Flock", token)] == [404] * 3
    assert [path.name for path in collecting.corrections.glob("*.wav")] == [f"{name}.wav"]
    assert [delete(name, token), delete(name, token)] == [204, 404]


def test_nothing_is_stored_that_was_not_asked_for(browser, gateway, files: list[Path]) -> None:
    answer = corrected(gateway, files[0].read_bytes())
    assert answer.status_code == 404 and "--corrections" in answer.json()["error"]["message"]
    with opened(browser, gateway.url) as page:
        transcribed(page, files[0])
        assert page.locator(".wrong").count() == 0


def test_a_folder_is_taken_over_and_becomes_full(asr_server, files: list[Path], tmp_path: Path) -> None:
    """A clip whose line a kill has prevented goes; a line that a person has edited stays as it is."""
    folder = tmp_path / "c"
    folder.mkdir()
    for name, age in (("old.wav", 7200), ("new.wav", 0)):
        (folder / name).write_bytes(b"RIFF")
        os.utime(folder / name, (time.time() - age, time.time() - age))
    manifest = folder / "corrections.jsonl"
    manifest.write_text("half of a\n", encoding="utf-8")
    arguments = ("--corrections", str(folder), "--max-corrections", "0.15")
    with GatewayProcess(asr_server, tmp_path / "g", *arguments) as small:
        stored = corrected(small, files[0].read_bytes()).json()
        full = corrected(small, files[1].read_bytes())
        assert {path.name for path in folder.glob("*.wav")} == {"new.wav", f"{stored['id']}.wav"}
        address = f"{small.url}/v1/corrections/{stored['id']}"
        assert httpx.delete(address, headers={"x-correction-token": stored["token"]}).status_code == 204
    assert full.status_code == 507 and full.json()["error"]["code"] == "corrections_full"
    assert manifest.read_text(encoding="utf-8") == "half of a\n"


def test_with_keys_and_a_file_that_is_too_long_for_one_request(
    browser, asr_server, collecting, meeting: Path, tmp_path: Path
) -> None:
    """The page asks for the key, keeps it for this tab, and leaves the file to a job, which it removes."""
    keys = Keys(f"sqlite:///{tmp_path / 'gateway.db'}")
    key = keys.create()
    arguments = ("--keys", "--database", keys.database, "--max-seconds-sync", "5")
    with GatewayProcess(asr_server, tmp_path / "g", *arguments) as locked:
        with opened(browser, locked.url, but="401") as page:
            page.click("#microphone")
            expect(page.locator("#status")).to_contain_text("API 키")
            page.set_input_files("#file", meeting)
            expect(page.locator(".upload.failed .upload-status")).to_contain_text("API 키")
            page.click(".upload button")
        with opened(browser, locked.url, but="413") as page:
            page.click("#options summary")
            page.fill("#key", key)
            page.locator("#key").blur()
            with page.expect_response(lambda answer: answer.request.method == "DELETE") as removed:
                found = transcribed(page, meeting)
            assert removed.value.ok
            assert page.evaluate("[Object.values(localStorage), Object.values(sessionStorage)]") == [
                [],
                [key],
            ]
        headers = {"authorization": f"Bearer {key}"}
        assert httpx.get(f"{locked.url}/v1/jobs", headers=headers).json()["data"] == []
    with opened(browser, collecting.url) as page:
        assert found == transcribed(page, meeting)


def test_the_page_is_korean_or_english(browser, collecting) -> None:
    with opened(browser, collecting.url, "en-GB") as page:
        expect(page.locator("#status")).to_have_text("Press and speak Korean.")
        page.click("#language")
        expect(page.locator("#status")).to_have_text("누르고 말하세요.")
        page.reload()
        expect(page.locator("#status")).to_have_text("누르고 말하세요.")
        assert page.get_attribute("html", "lang") == "ko"
        english, korean = page.evaluate(
            "import('/page/texts.js').then((t) => [t.ENGLISH, t.KOREAN].map(Object.keys))"
        )
        assert english == korean


def test_it_fits_a_phone(browser, collecting, meeting: Path) -> None:
    with opened(browser, collecting.url, viewport={"width": 360, "height": 740}) as page:
        transcribed(page, meeting)
        page.click(".wrong >> nth=0")
        page.click("#options summary")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_browser_may_do_nothing_else(collecting) -> None:
    answer = httpx.get(f"{collecting.url}/")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy and "http" not in policy
    names = [name for name in ("app.js", "worklet.js", "style.css", "icon.svg")]
    for name in names:
        again = {"if-none-match": httpx.get(f"{collecting.url}/page/{name}").headers["etag"]}
        assert httpx.get(f"{collecting.url}/page/{name}", headers=again).status_code == 304
    for name in ("routes.py", "..%2Froutes.py", "%2e%2e/__init__.py"):
        assert httpx.get(f"{collecting.url}/page/{name}").status_code == 404


RESAMPLED = """async ([rate, hertz]) => {
  const { Resampler } = await import("/page/resampler.js");
  const resampler = new Resampler(rate, 24000);
  const found = [];
  for (let at = 0; at < rate; at += 128) {
    const block = Float32Array.from({ length: Math.min(128, rate - at) }, (_, i) =>
      0.5 * Math.sin(2 * Math.PI * hertz * (at + i) / rate));
    found.push(...resampler.push(block));
  }
  return [...found, ...resampler.flush()];
}"""


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000, 96_000])
def test_the_microphones_rate_becomes_24_khz(page, rate: int) -> None:
    """Tones of speech pass unchanged and in time; what 24 kHz cannot hold is gone."""
    for hertz in (200, 3_000):
        found = np.array(page.evaluate(RESAMPLED, [rate, hertz]))
        assert abs(len(found) - 24_000) <= 1
        wanted = 0.5 * np.sin(2 * np.pi * hertz * np.arange(len(found)) / 24_000)
        inside = slice(300, -300)
        assert np.abs(found - wanted)[inside].max() < 1e-3, (rate, hertz)
    if rate > 40_000:
        assert np.abs(page.evaluate(RESAMPLED, [rate, 15_000])[300:-300]).max() < 1e-3


def test_without_a_microphone_the_page_says_so(browser, collecting) -> None:
    with opened(browser, collecting.url) as page:
        page.click("#microphone")
        expect(page.locator("#status")).to_contain_text("마이크")
        expect(page.locator("body[data-trouble][data-state=idle]")).to_have_count(1)
    elsewhere = collecting.url.replace("127.0.0.1", "asr-box")
    with opened(browser, elsewhere) as page:
        page.click("#microphone")
        expect(page.locator("#status")).to_contain_text("HTTPS")
