"""The blocks of a file at its own rate: by libsndfile, or by ffmpeg what that does not read.

What a header says of rate and channels is believed only where a recording can have them.
"""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import soundfile

from ko_asr.audio.mixdown import Mixdown, check_values
from ko_asr.audio.problem import AudioProblem, UnknownFormat
from ko_asr.audio.reader import AudioReader
from ko_asr.gateway.audio.ffmpeg import DEMUXERS, Ffmpeg
from ko_asr.gateway.audio.folders import RequestFolder
from ko_asr.gateway.audio.wanted import MOST_CHANNELS, Headerless, Wanted
from ko_asr.gateway.errors import ApiError

Block = tuple[int, np.ndarray]  # the rate in Hz, and float32 [n, channels]
_RATES = (4_000, 384_000)  # Hz
_SAMPLES_A_SECOND = 8 * _RATES[1]  # of all channels: a block of a forged header would take all memory
_BLOCK_SECONDS = 5
_HEADERS = {b"RIFF": "WAV", b"fLaC": "FLAC", b"OggS": "Ogg", b"#!AM": "AMR", b".snd": "AU", b"FORM": "AIFF"}


class Sound:
    """One file, read once; `close` may be called by any thread."""

    def __init__(self, folder: RequestFolder, wanted: Wanted, ffmpeg: str | None) -> None:
        self._folder, self._wanted, self._command = folder, wanted, ffmpeg
        self._process: Ffmpeg | None = None
        self._mix: Callable[[np.ndarray], np.ndarray] = Mixdown()

    def close(self) -> None:
        """End what decodes."""
        if self._process is not None:
            self._process.close()

    def blocks(self) -> Iterator[Block]:
        """Yield all blocks, of one channel where they are mixed. AudioProblem; ApiError."""
        for rate, block in self._by_kind():
            yield rate, block if self._wanted.separate else self._mix(block)[:, None]

    def _by_kind(self) -> Iterator[Block]:
        if self._wanted.headerless is not None:
            yield from _without_header(self._folder.source(), self._wanted.headerless)
            return
        try:
            with AudioReader(self._folder.source()) as reader:
                self._check(reader.rate, reader.channels)
                for block in reader.channel_blocks():
                    yield reader.rate, block
        except UnknownFormat as problem:
            if problem.kind not in DEMUXERS or self._command is None:
                raise
            yield from self._by_ffmpeg(self._command, problem.kind)

    def _by_ffmpeg(self, command: str, kind: str) -> Iterator[Block]:
        at = 0
        self._process = process = Ffmpeg(command, self._folder.source_file(), kind, self._folder.log)
        try:
            for block in process.blocks():
                if not at:
                    self._check(process.rate, process.channels)
                check_values(block, at, process.rate)
                at += len(block)
                yield process.rate, block
        finally:
            process.close()

    def _check(self, rate: int, channels: int) -> None:
        """Raise AudioProblem where no recording has this kind, ApiError where it has too many channels."""
        if not _RATES[0] <= rate <= _RATES[1] or rate * channels > _SAMPLES_A_SECOND:
            kind = f"{rate} Hz in {channels} channels"
            raise AudioProblem(f"{kind}, which no recording has", f"claims {kind}: convert it to 16 kHz mono")
        if self._wanted.separate and channels > MOST_CHANNELS:
            sentence = f"the file has {channels} channels: up to {MOST_CHANNELS} are told apart, mix them"
            raise ApiError(400, sentence, param="channels", code="too_many_channels")


def _without_header(source: Path | BytesIO, kind: Headerless) -> Iterator[Block]:
    if name := _HEADERS.get(_first_bytes(source)):
        raise AudioProblem("a header", f"has the header of {name}: leave encoding out")
    with soundfile.SoundFile(
        source,
        samplerate=kind.rate,
        channels=kind.channels,
        format="RAW",
        subtype=kind.subtype,
        endian="LITTLE",
    ) as sound:
        while len(block := sound.read(_BLOCK_SECONDS * kind.rate, dtype="float32", always_2d=True)):
            yield kind.rate, block


def _first_bytes(source: Path | BytesIO) -> bytes:
    if isinstance(source, BytesIO):
        return source.getvalue()[:4]
    with source.open("rb") as file:
        return file.read(4)
