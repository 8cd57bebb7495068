"""Formats that libsndfile does not read, decoded by an ffmpeg process that can do nothing else.

The file's first bytes choose the demuxer, never ffmpeg: some of its formats are lists of other files and of
addresses. Only decoders of speech and music may run, no pictures, no network; the process has limits of
memory, CPU time and output, and dies with the gateway.
"""

import contextlib
import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ko_asr.audio.foreign import AAC, AMR, MP4, WEBM
from ko_asr.audio.problem import AudioProblem

DEMUXERS = {MP4: "mov", WEBM: "matroska", AMR: "amr", AAC: "aac"}
_DECODERS = "aac,aac_latm,ac3,alac,amrnb,amrwb,eac3,flac,mp2,mp3,mp3float,opus,pcm_s16le,pcm_f32le,vorbis"
_MEMORY = 1 << 30  # bytes of address space; a decoder needs a tenth of it
_CPU_SECONDS = 1800  # of a job of hours; the clock ends the decoding of a request long before
_LOG_BYTES = 1 << 16  # the only file that it may write
_BLOCK_BYTES = 1 << 20
AU_HEADER = 24  # bytes
# A script of its own rather than a preexec_fn, which is not safe in a process with threads.
_LIMITED = (
    sys.executable,
    "-ISXutf8",
    "-c",
    "import ctypes, os, resource as r, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    f"for kind, limit in ((r.RLIMIT_AS, {_MEMORY}), (r.RLIMIT_CPU, int(sys.argv[1])), (r.RLIMIT_CORE, 0),\n"
    f"                    (r.RLIMIT_FSIZE, {_LOG_BYTES}), (r.RLIMIT_NOFILE, 64)):\n"
    "    r.setrlimit(kind, (limit, limit))\n"
    "os.execv(sys.argv[2], sys.argv[2:])",
)


def decoding(
    command: str, demuxer: str, source: str, *options: str, cpu_seconds: int = _CPU_SECONDS
) -> list[str]:
    """The command that decodes ``source``, such as file:name or pipe:0, to float32 on its standard output.

    The output is AU, big-endian, whose header tells the rate. ``options`` are of the input.
    """
    return [
        *(*_LIMITED, str(cpu_seconds), command),
        *("-nostdin", "-hide_banner", "-loglevel", "error", "-threads", "1", *options),
        *("-protocol_whitelist", source.partition(":")[0], "-codec_whitelist", _DECODERS, "-f", demuxer),
        *("-i", source, "-map", "0:a:0", "-vn", "-sn", "-dn", "-flush_packets", "1"),
        *("-protocol_whitelist", "pipe", "-c:a", "pcm_f32be", "-f", "au", "pipe:1"),
    ]


def au_header(header: bytes) -> tuple[int, int, int]:
    """Where the samples begin, their rate in Hz, and the channels, of the first `AU_HEADER` bytes."""
    begin, rate, channels = (int.from_bytes(header[at : at + 4]) for at in (4, 16, 20))
    return begin, rate, channels


def find_ffmpeg() -> str | None:
    """The system's ffmpeg, which is kept up to date, or else that of the imageio-ffmpeg package, or None."""
    if found := shutil.which("ffmpeg"):
        return found
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        return None
    import imageio_ffmpeg

    with contextlib.suppress(RuntimeError):  # a package without a binary for this machine
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    return None


class Ffmpeg:
    """One decoding: float32 blocks [n, channels] at ``rate``, once `blocks` has given the first."""

    def __init__(self, command: str, source: Path, kind: str, log: Path) -> None:
        """Start decoding ``source``, of a ``kind`` in `DEMUXERS`; what ffmpeg says goes to ``log``."""
        self.rate, self.channels = 0, 0
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                decoding(command, DEMUXERS[kind], f"file:{source.name}", "-xerror"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=source.parent,
                env={"LC_ALL": "C"},
            )

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield float32 [n, channels]. AudioProblem where the file is damaged or holds no sound."""
        assert self._process.stdout is not None
        header = self._process.stdout.read(AU_HEADER)
        if len(header) == AU_HEADER:
            begin, self.rate, self.channels = au_header(header)
            self._process.stdout.read(begin - AU_HEADER)
            frame = 4 * self.channels
            while data := self._process.stdout.read(_BLOCK_BYTES // frame * frame):
                whole = np.frombuffer(data, ">f4", count=len(data) // frame * self.channels)
                yield whole.astype(np.float32).reshape(-1, self.channels)
        self._check_end()

    def close(self) -> None:
        """End the process. Any thread may."""
        self._process.kill()
        self._process.wait()

    def _check_end(self) -> None:
        status = self._process.wait()
        said = self._log.read_text(encoding="utf-8", errors="replace")
        if "matches no streams" in said:
            raise AudioProblem("no sound in it", "holds no sound: it has no audio stream")
        if status or "ended prematurely" in said:
            raise AudioProblem("damaged or cut off", "is damaged or cut off: copy it again")
