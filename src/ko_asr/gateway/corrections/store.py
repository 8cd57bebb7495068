"""A folder of clips and one NeMo manifest, written so that a kill at any moment leaves both whole.

Any number of gateways may share it: who writes the manifest holds the folder's lock.
"""

import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.gateway.audio.folders import room_on_disk
from ko_asr.gateway.errors import ApiError
from ko_asr.runtime.frames import SAMPLE_RATE

MANIFEST = "corrections.jsonl"
_LOCK = ".lock"
_TOKEN = "token_sha256"
_ABANDONED = 3600.0  # seconds after which a clip without a line is what a kill left


class Corrections:
    """Corrected clips and their texts in ``folder``, ``most_bytes`` of them at most."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """Make the folder where it is missing. UserError when it cannot be written."""
        self._folder, self._most = folder.absolute(), most_bytes
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._locked():
                self._sweep()
        except OSError as error:
            reason = error.strerror
            raise UserError(f"--corrections {folder} cannot be written ({reason}): give another") from error

    def add(self, samples: np.ndarray, entry: dict[str, Any]) -> tuple[str, str]:
        """Store float32 [n] at 16 kHz and what ``entry`` says of it; its id, and the token that removes it.

        ApiError when there is no room.
        """
        name, token = secrets.token_hex(16), secrets.token_urlsafe(24)
        clip = f"{name}.wav"
        line = {
            "audio_filepath": clip,
            **entry,
            "duration": round(len(samples) / SAMPLE_RATE, 3),
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            _TOKEN: _digest(token),
        }
        with room_on_disk(), self._locked():
            written = json.dumps(line, ensure_ascii=False)
            self._check_room(2 * len(samples) + len(written.encode()))
            with atomic_write(self._folder / clip, "wb") as stream:
                soundfile.write(stream, samples, SAMPLE_RATE, "PCM_16", format="WAV")
            self._write([*self._lines(), written])
        return name, token

    def remove(self, name: str, token: str) -> None:
        """Remove one for good. ApiError unless ``token`` is the one that was given for it."""
        with room_on_disk(), self._locked():
            lines, clip = self._lines(), f"{name}.wav"
            kept = [line for line in lines if _entry(line).get("audio_filepath") != clip]
            told = next((entry for entry in map(_entry, lines) if entry.get("audio_filepath") == clip), {})
            if not hmac.compare_digest(told.get(_TOKEN, ""), _digest(token)):
                raise ApiError(404, "there is no such correction, or the token is not its own")
            self._write(kept)
            (self._folder / clip).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _lines(self) -> list[str]:
        try:
            return (self._folder / MANIFEST).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _write(self, lines: Sequence[str]) -> None:
        with atomic_write(self._folder / MANIFEST) as stream:
            stream.writelines(f"{line}\n" for line in lines)

    def _check_room(self, more: int) -> None:
        # The texts as well: with clips of a moment they would fill the disk.
        if sum(file.stat().st_size for file in self._folder.glob("*.*")) + more > self._most:
            sentence = "no more corrections are taken: their folder is full"
            raise ApiError(507, sentence, code="corrections_full", retry_after=3600)

    def _sweep(self) -> None:
        told = {_entry(line).get("audio_filepath") for line in self._lines()}
        old = time.time() - _ABANDONED
        for clip in self._folder.glob("*.wav"):
            if clip.name not in told and clip.stat().st_mtime < old:
                clip.unlink()


def _entry(line: str) -> dict[str, Any]:
    """The entry of a line; empty for one that a person has left malformed."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {}


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
