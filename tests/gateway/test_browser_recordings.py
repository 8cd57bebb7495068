"""What a real browser's MediaRecorder makes of a microphone; recorded here, into one file or in pieces."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ko_asr.audio.read import read_audio
from ko_asr.evaluation.metrics import score

RECORD = """
async ([type, slice, seconds]) => {
  const stream = await navigator.mediaDevices.getUserMedia(
    {audio: {echoCancellation: false, noiseSuppression: false, autoGainControl: false}});
  const recorder = new MediaRecorder(stream, {mimeType: type}), blobs = [];
  recorder.ondataavailable = event => event.data.size && blobs.push(event.data);
  const stopped = new Promise(resolve => recorder.onstop = resolve);
  recorder.start(slice || undefined);
  await new Promise(resolve => setTimeout(resolve, 1000 * seconds));
  recorder.stop();
  await stopped;
  stream.getTracks().forEach(track => track.stop());
  const text = async blob => {
    const bytes = new Uint8Array(await blob.arrayBuffer());
    return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(""));
  };
  return Promise.all(blobs.map(text));
}
"""


@dataclass(frozen=True)
class Recording:
    """The blobs of one recording, and what was said."""

    blobs: list[bytes]
    said: str


@pytest.fixture(scope="module")
def speech(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A WAV for the microphone, which plays it again and again."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    pause = np.zeros(8_000, np.float32)
    soundfile.write(path, np.concatenate([pause, read_audio(files[0]), pause]), 16_000, "PCM_16")
    return path


@pytest.fixture(scope="module")
def page(gateway, speech: Path) -> Iterator:
    chromium = Path("/usr/bin/chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here")
    if not chromium.exists():
        pytest.skip("no /usr/bin/chromium on this machine")
    flags = [
        "--no-sandbox",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={speech}",
    ]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(chromium), args=flags)
        opened = browser.new_page()
        opened.goto(f"{gateway.url}/health/live")  # this machine's own pages may use the microphone
        yield opened
        browser.close()


@pytest.fixture(scope="module")
def record(page, speech: Path, gateway):
    """A function that records in a container, whole (slice 0) or in pieces of so many ms."""
    said = gateway.text(speech)

    def record(kind: str, slice_ms: int = 0) -> Recording:
        if not page.evaluate("type => MediaRecorder.isTypeSupported(type)", kind):
            pytest.skip(f"this browser does not record {kind}")
        blobs = page.evaluate(RECORD, [kind, slice_ms, soundfile.info(speech).duration])
        return Recording([base64.b64decode(blob) for blob in blobs], said)

    return record


def answer(gateway, data: bytes):
    return gateway.post(data={"model": "asr"}, files={"file": ("blob", data)})


@pytest.mark.parametrize("kind", ["audio/webm;codecs=opus", "audio/mp4;codecs=mp4a.40.2"])
def test_complaint_2_a_browsers_recording_is_heard(gateway, record, kind: str) -> None:
    made = record(kind)
    found = answer(gateway, b"".join(made.blobs))
    assert found.status_code == 200, found.text
    assert score(made.said, found.json()["text"]).cer < 0.7  # it begins and ends anywhere


@pytest.mark.parametrize("kind", ["audio/webm;codecs=opus", "audio/mp4;codecs=opus"])
def test_complaint_2_pieces_joined_are_a_recording_and_a_later_one_is_told_so(
    gateway, record, kind: str
) -> None:
    made = record(kind, 500)
    assert len(made.blobs) > 3
    whole = answer(gateway, b"".join(made.blobs))
    assert whole.status_code == 200 and score(made.said, whole.json()["text"]).cer < 0.7
    for blob in made.blobs[1:]:
        refusal = answer(gateway, blob)
        assert refusal.status_code == 400 and "is a later piece of a recording" in refusal.text, blob[:16]
    assert answer(gateway, made.blobs[0]).status_code == 400  # a header alone
