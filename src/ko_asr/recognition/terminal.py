"""Live audio in and live text out, at the terminal: files at the speed of speech, microphones, partials."""

import queue
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ko_asr.audio.stream import AudioStream
from ko_asr.errors import UserError
from ko_asr.runtime.results import Result


def file_packets(audio: AudioStream, size: int, realtime: bool) -> Iterator[np.ndarray]:
    """Packets of ``size`` samples; with ``realtime`` each comes when its last sample would be spoken."""
    rest, sent, started = np.zeros(0, np.float32), 0, time.perf_counter()
    for block in audio:
        rest = np.concatenate([rest, block])
        while len(rest) >= size:
            packet, rest = rest[:size], rest[size:]
            sent += size
            if realtime:
                time.sleep(max(0.0, started + sent / audio.rate - time.perf_counter()))
            yield packet
    if len(rest):
        yield rest


def sound_library() -> Any:
    """The sounddevice module. UserError where it or PortAudio is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise UserError("--mic needs sounddevice: pip install -r requirements-mic.txt") from error
    except OSError as error:
        raise UserError(
            "--mic needs the PortAudio library: install it (Debian and Ubuntu: apt install libportaudio2)"
        ) from error
    return sounddevice


def microphone_packets(sounddevice: Any, rate: int, size: int, device: str | None) -> Iterator[np.ndarray]:
    """Packets of ``size`` samples at ``rate`` Hz until Ctrl-C. UserError where there is no microphone."""
    packets: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    chosen = int(device) if device and device.isdigit() else device
    try:
        with sounddevice.InputStream(
            rate, size, chosen, 1, "float32", callback=lambda data, *_: packets.put(data[:, 0].copy())
        ):
            while True:
                yield packets.get()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(
            f"no microphone to listen to ({error}): plug one in or name --input-device"
        ) from error


class Terminal:
    """Partials over themselves on a terminal; elsewhere one line a final, and a partial if asked for."""

    def __init__(self, partial_lines: bool = False, prefix: str = "") -> None:
        """``partial_lines``: partials are lines of their own where the output is no terminal."""
        self._live, self._lines, self._prefix = sys.stdout.isatty(), partial_lines, prefix

    def show(self, results: Sequence[Result]) -> None:
        """Write what is new."""
        for result in results:
            text = " ".join((result.written or result).text.split())
            if result.is_final and text:
                start, end = result.start_ms / 1000, result.end_ms / 1000
                line = f"{self._prefix}{start:8.2f} {end:8.2f}  {text}  ({result.confidence:.2f})"
                print(f"\r\x1b[K{line}" if self._live else line, flush=True)
            elif self._live and not result.is_final:
                print(f"\r\x1b[K{fitting(text, shutil.get_terminal_size().columns - 1)}", end="", flush=True)
            elif self._lines and text:
                print(f"{self._prefix}{'...':>17}  {text}", flush=True)


def fitting(text: str, columns: int) -> str:
    """The end of ``text`` that fits; Hangul is two columns wide."""
    widths = [2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text]
    while sum(widths) > columns and text:
        text, widths = text[1:], widths[1:]
    return text
