"""The one reader of audio, under preparation, evaluation, transcription and the clients: mono blocks.

libsndfile decodes. Around it stand the checks that it leaves out: whether the file is as long as its header
says, streams that follow one another, MP3s whose length is guessed, NaN. What is found is an `AudioProblem`;
who reads decides what that means: a rejected utterance, or a sentence to the user.
"""

import io
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from ko_asr.audio.mixdown import Mixdown, check_values
from ko_asr.audio.parts import find_parts
from ko_asr.audio.problem import AudioProblem, MissingFile, UnknownFormat

_BLOCK_SECONDS = 5.0
_SLACK_SECONDS = 0.05  # headers that are off by a few bytes lose nothing that can be heard
_PADDING_SECONDS = 0.5  # headers of compressed files may count the encoder's padding, and labels are rounded
MP4, WEBM, AMR, AAC = "M4A or MP4", "WebM or Matroska", "AMR", "AAC"
_FOREIGN = (
    (4, b"ftyp", MP4),
    (0, b"\x1a\x45\xdf\xa3", WEBM),
    (0, b"\x30\x26\xb2\x75", "WMA"),
    (0, b"#!AMR", AMR),
    (0, b"\xff\xf1", AAC),
    (0, b"\xff\xf9", AAC),
)


class _Sequential(soundfile.SoundFile):
    """A sound file read from front to back.

    soundfile would clip reads at the header's length and seek after each, which GSM 6.10 and G.721 cannot and
    which fails where the length is unknown.
    """

    def seekable(self) -> bool:
        return False

    @property
    def finds(self) -> bool:
        """Whether libsndfile can seek in it."""
        return super().seekable()


def open_file(path: str | Path) -> BinaryIO:
    """Open a regular file. Raises AudioProblem for anything else, such as a pipe, which could hang."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            return Path(path).open("rb", buffering=1 << 16)
    except (FileNotFoundError, NotADirectoryError):
        raise MissingFile("missing file", "is missing: there is no file of this name") from None
    except OSError as error:
        reason = f"unreadable file ({error.strerror})"
        raise AudioProblem(reason, f"cannot be read ({error.strerror})") from error
    if stat.S_ISDIR(mode):
        raise AudioProblem("unreadable file (Is a directory)", "is a folder: name the files in it")
    raise AudioProblem("a pipe or device, not a file", "is a pipe or device: save its audio as a file first")


class AudioReader:
    """Audio file, open for reading once; ``rate`` in Hz, ``channels``, ``pcm16`` for 16-bit integers.

    ``seconds`` is the length by the header, None where it leaves that open; ``repairs`` names what was done
    to the samples, and is complete when they are read.
    """

    def __init__(self, file: str | Path | io.BytesIO) -> None:
        """Open a path, or bytes in memory. Raises AudioProblem when that is missing or no audio."""
        self._lock = threading.Lock()
        self._path = None if isinstance(file, io.BytesIO) else os.fsencode(file)
        self._raw: BinaryIO = file if isinstance(file, io.BytesIO) else open_file(file)
        self._sound: _Sequential | None = None
        self.repairs: tuple[str, ...] = ()
        self._mixdown = Mixdown()
        try:
            self._size = self._raw.seek(0, io.SEEK_END)
            if not self._size:
                raise AudioProblem("empty file", "holds no samples: it is 0 bytes long")
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, as soon as a block that another thread is reading is done."""
        with self._lock:
            if self._sound is not None:
                self._sound.close()
            if self._path is not None:
                self._raw.close()

    @property
    def seconds(self) -> float | None:
        """Length by the header."""
        return None if self._frames is None else self._frames / self.rate

    def _start(self) -> None:
        self._parts = find_parts(self._raw)
        if self._parts.problem:
            raise AudioProblem(*self._parts.problem)
        sound = self._open(0)
        self.rate, self.channels, self.pcm16 = sound.samplerate, sound.channels, sound.subtype == "PCM_16"
        self._format = sound.format
        known = sound.frames < 1 << 62  # not in a FLAC that was written to a pipe
        self._seeks = sound.finds and known and self._parts.files is None
        self._frames = self._parts.frames or (sound.frames if known else None)
        if self._parts.files and len(self._parts.files) > 1:
            self._add_links()

    def _open(self, number: int) -> _Sequential:
        """Let libsndfile open one part."""
        if self._sound is not None:
            self._sound.close()
        file: BinaryIO | bytes = self._path if self._path is not None else self._raw
        if self._parts.files is not None:
            file = self._parts.files[number]
        if not isinstance(file, bytes):
            file.seek(0)
        try:
            self._sound = _Sequential(file)
        except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:  # TypeError: a .raw
            raise _not_audio(self._raw, error) from error
        return self._sound

    def _add_links(self) -> None:
        """Sum the lengths of streams in a row. Raises AudioProblem when they differ in kind."""
        assert self._parts.files is not None
        total = 0
        for number in range(len(self._parts.files)):
            sound = self._open(number)
            if (sound.samplerate, sound.channels) != (self.rate, self.channels):
                raise AudioProblem(
                    "Ogg whose rate or channels change",
                    f"changes its rate or channels after {total / self.rate:.1f} s: split it there",
                )
            total += sound.frames
        self._frames = total
        self._open(0)

    def check(self, end: float | None = None) -> None:
        """Raise AudioProblem where the file is cut off before ``end`` (seconds; None: its end)."""
        there = self.seconds or 0.0
        missing = (self._parts.ratio - 1.0) * there
        if missing > _SLACK_SECONDS and (end is None or end > there):
            times = f"{there:.1f} s of {there + missing:.1f} s are there"
            raise AudioProblem(f"cut off ({times})", f"is cut off: {times}: copy it again")

    def blocks(
        self, start: float = 0.0, end: float | None = None, dtype: str = "float32"
    ) -> Iterator[np.ndarray]:
        """Yield [n] samples of one channel, the mean of all, between ``start`` and ``end`` in seconds.

        float32 is in -1..1; int16 is for ``pcm16``. Raises AudioProblem where audio is missing, damaged, NaN
        or of no scale. Channels that cancel out are not averaged: one of them is taken.
        """
        self.check(end)
        first = round(start * self.rate)
        count = None if end is None else max(0, round((end - start) * self.rate))
        given = 0
        for block in self._checked(first, count, dtype):
            given += len(block)
            mono = self._mixdown(block)
            self.repairs = self._mixdown.repairs
            yield mono
        if count is not None and 0 < given < count - _PADDING_SECONDS * self.rate:
            raise AudioProblem(
                f"segment outside the audio ({(count - given) / self.rate:.1f} s beyond its end)",
                f"ends {(count - given) / self.rate:.1f} s before the segment that was asked for",
            )

    def channel_blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels] from beginning to end. Raises AudioProblem like `blocks`."""
        self.check()
        yield from self._checked(0, None, "float32")

    def _checked(self, first: int, count: int | None, dtype: str) -> Iterator[np.ndarray]:
        given = 0
        for block in self._decoded(first, count, dtype):
            if dtype == "float32":
                check_values(block, first + given, self.rate)
            given += len(block)
            yield block

    def _decoded(self, first: int, count: int | None, dtype: str) -> Iterator[np.ndarray]:
        """Yield [n, channels] from sample ``first`` on, ``count`` samples or all that there are."""
        at, last = 0, None if count is None else first + count
        if first and self._seeks:
            at = min(first, self._frames or 0)
            self._seek(at)
        for number in range(len(self._parts.files or (None,))):
            if number:
                self._open(number)
            while (size := self._next_size(at, first, last)) and len(block := self._read(size, dtype, at)):
                at += len(block)
                if at > first:
                    yield block
        if last is None:
            self._finish(at)

    def _next_size(self, at: int, first: int, last: int | None) -> int:
        """Samples to read at once: blocks never mix what is before ``first`` with what is wanted."""
        size = int(_BLOCK_SECONDS * self.rate)
        stop = first if at < first else last if last is not None else None
        return size if stop is None else max(0, min(size, stop - at))

    def _seek(self, at: int) -> None:
        assert self._sound is not None
        try:
            self._sound.seek(at)
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise self._damaged(at, error) from error

    def _read(self, size: int, dtype: str, at: int) -> np.ndarray:
        with self._lock:
            assert self._sound is not None
            try:
                return self._sound.read(size, dtype=dtype, always_2d=True)
            except (soundfile.SoundFileError, OSError, RuntimeError) as error:
                raise self._damaged(at, error) from error

    def _damaged(self, at: int, error: Exception) -> AudioProblem:
        """What to say when the block at sample ``at`` cannot be read."""
        begin = at / self.rate
        where = f"between {begin:.0f} s and {begin + _BLOCK_SECONDS:.0f} s"
        said = f"cannot be read {where} ({_reason(error)}): it is damaged or cut off, copy it again"
        return AudioProblem(f"damaged or cut off ({where})", said)

    def _finish(self, at: int) -> None:
        """Check at the end, after ``at`` samples, that this was all."""
        slack = _PADDING_SECONDS if self._format in ("MP3", "OGG") else _SLACK_SECONDS
        if self._frames is not None and at < self._frames - slack * self.rate:
            times = f"{at / self.rate:.1f} s of {self._frames / self.rate:.1f} s are there"
            raise AudioProblem(
                f"damaged or cut off ({times})", f"is damaged or cut off: {times}: copy it again"
            )
        if self._path is not None and self._raw.seek(0, io.SEEK_END) != self._size:
            raise AudioProblem("grew while it was read", "grew while it was read: wait until it is complete")
        if self._format == "FLAC" and _find(self._raw, b"fLaC\x00\x00\x00\x22", 4):
            raise AudioProblem(
                "followed by another recording",
                f"is followed by another recording: {convert_command()} joins them",
            )


def convert_command(rate: int = 16_000) -> str:
    """The command that makes a FLAC of anything."""
    return f"ffmpeg -i FILE -ac 1 -ar {rate} FILE.flac"


def _not_audio(file: BinaryIO, error: Exception) -> AudioProblem:
    file.seek(0)
    head = file.read(16)
    kind = next((name for at, magic, name in _FOREIGN if head[at:].startswith(magic)), "")
    reason = kind or _reason(error)
    is_kind = f" but {kind}" if kind else ""
    return UnknownFormat(
        f"unreadable audio ({reason})",
        f"is no audio that libsndfile reads (WAV, FLAC, OGG, Opus, MP3, AIFF ...){is_kind}: convert it "
        f"first, with {convert_command()}",
        kind,
    )


def _reason(error: Exception) -> str:
    return getattr(error, "error_string", str(error)).strip().rstrip(".") or "libsndfile gives no reason"


def _find(file: BinaryIO, wanted: bytes, begin: int) -> bool:
    file.seek(begin)
    tail = b""
    while data := file.read(1 << 20):
        if wanted in tail + data:
            return True
        tail = data[-len(wanted) :]
    return False
