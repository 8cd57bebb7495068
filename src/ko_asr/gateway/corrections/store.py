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
from collections.abc import Iterator
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
    """Corrected clips in ``folder``, ``most_bytes`` of them at most."""

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
            self._check_room(2 * len(samples))
            with atomic_write(self._folder / clip, "wb") as stream:
                soundfile.write(stream, samples, SAMPLE_RATE, "PCM_16", format="WAV")
            self._append(json.dumps(line, ensure_ascii=False))
        return name, token

    def remove(self, name: str, token: str) -> None:
        """Remove one for good. ApiError unless ``token`` is the one that was given for it."""
        with room_on_disk(), self._locked():
            lines = list(self._lines())
            kept = [line for line in lines if line["audio_filepath"] != f"{name}.wav"]
            gone = [line for line in lines if line["audio_filepath"] == f"{name}.wav"]
            if not gone or not hmac.compare_digest(gone[0].get(_TOKEN, ""), _digest(token)):
                raise ApiError(404, "there is no such correction, or the token is not its own")
            with atomic_write(self._folder / MANIFEST) as stream:
                stream.writelines(f"{json.dumps(line, ensure_ascii=False)}\n" for line in kept)
            (self._folder / gone[0]["audio_filepath"]).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        handle = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _lines(self) -> Iterator[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            yield from map(json.loads, (self._folder / MANIFEST).read_text(encoding="utf-8").splitlines())

    def _append(self, line: str) -> None:
        """Add one line, or nothing: a full disk would leave half of it."""
        with (self._folder / MANIFEST).open("ab") as stream:
            size = stream.tell()
            try:
                stream.write(f"{line}\n".encode())
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(size)
                raise

    def _check_room(self, more: int) -> None:
        if sum(clip.stat().st_size for clip in self._folder.glob("*.wav")) + more > self._most:
            raise ApiError(
                507, "no more corrections are taken: their folder is full", code="corrections_full"
            )

    def _sweep(self) -> None:
        told, old = {line["audio_filepath"] for line in self._lines()}, time.time() - _ABANDONED
        for clip in self._folder.glob("*.wav"):
            if clip.name not in told and clip.stat().st_mtime < old:
                clip.unlink()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
