"""Chromium, with a microphone that speaks a file, and a page that may not complain."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install the package chromium")
SPEECH = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


def launch(playwright: Playwright, *arguments: str) -> Browser:
    """A browser without a window."""
    return playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *arguments])


def speaking(wav: Path) -> list[str]:
    """Arguments of a browser whose microphone gives ``wav`` once, from when it is opened."""
    return [*SPEECH, f"--use-file-for-fake-audio-capture={wav}%noloop"]


@contextlib.contextmanager
def opened(
    browser: Browser, url: str, locale: str = "ko-KR", *, but: str = "\0", **context
) -> Iterator[Page]:
    """The page at ``url``; an error on its console, a breach of its policy among them, fails.

    Lines that hold ``but`` are allowed: Chromium writes one for each answer that is a refusal.
    """
    complaints: list[str] = []

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and but not in message.text:
            complaints.append(message.text)

    with contextlib.closing(browser.new_context(locale=locale, **context)) as made:
        page = made.new_page()
        page.set_default_timeout(20_000)
        page.on("console", console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        page.wait_for_selector("body[data-state=idle]")
        yield page
        assert not complaints, complaints
