"""Corpus audio to int16 samples at 16 kHz, to the facts of an audit, and to FLAC.

Raises AudioProblem with a reason for audio that cannot be used; such an utterance is rejected, and the run
goes on. An error in writing (no space, no permission) is an OSError and ends the run.
"""

import functools
import io
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from ko_asr.audio.problem import AudioProblem, MissingFile
from ko_asr.audio.read import joined
from ko_asr.audio.reader import AudioReader, open_file
from ko_asr.audio.source import AudioSource
from ko_asr.runtime.frames import SAMPLE_RATE

MIN_SECONDS = 0.1  # shorter than one encoder frame: no room for speech
SILENCE_RMS = 10 ** (-50 / 20) * 32768  # of a 20 ms frame: -50 dBFS
_FRAME = SAMPLE_RATE // 50
_CONTAINERS = (b"RIFF", b"fLaC", b"OggS", b"RF64", b"FORM", b"ID3")


class AudioFacts(NamedTuple):
    """Measurements on the int16 samples: levels are of full scale, times in seconds."""

    samples: int
    peak: float  # 0..1
    clipped: int  # samples at the limits
    dc: float  # mean, -1..1
    rms_db: float  # dBFS
    silent: float  # share of 20 ms frames below -50 dBFS
    correlation: float  # between neighbouring samples: speech 0.7-0.99, white noise (a lost byte) about 0


def read_audio(source: AudioSource) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read int16 [samples] at 16 kHz mono, and the names of the repairs made. Raises AudioProblem."""
    if source.path and (source.start or source.end is not None) and not source.headerless:
        return _read_container(source.path, source)
    data = read_bytes(source)
    if source.headerless and not data.startswith(_CONTAINERS):
        return _cut(*_pcm_samples(data), source)
    samples, repairs = _read_container(io.BytesIO(data), source)
    return samples, (*repairs, *(("container under a PCM name",) if source.headerless else ()))


def read_bytes(source: AudioSource) -> bytes:
    """Read the bytes of a source's file or archive member. Raises AudioProblem."""
    if source.path:
        try:
            with open_file(source.path) as file:
                return file.read()
        except MissingFile:
            if not source.archive:
                raise
        except OSError as error:
            raise AudioProblem(f"unreadable file ({error.strerror})") from error
    if not source.archive:
        raise MissingFile("missing file")
    return _read_member(source.archive, source.member)


def signature(source: AudioSource) -> str:
    """Return size and time of the source's file, which change when the source does; "" when there is none."""
    for path in (source.path, source.archive):
        try:
            status = os.stat(path) if path else None
        except OSError:
            continue
        if status is not None:
            cut = f" {source.start} {source.end}" if source.start or source.end is not None else ""
            return f"{status.st_size} {status.st_mtime_ns}{cut}"
    return ""


def _member_key(name: str) -> str:
    return "/".join(PurePosixPath(name.replace("\\", "/")).parts[-2:])


@functools.lru_cache(maxsize=2)  # a part of KsponSpeech has 248,000 members; utterances come part by part
def _open_archive(path: str) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    archive = zipfile.ZipFile(path, metadata_encoding="cp949")  # for names without the UTF-8 flag
    index = {_member_key(i.filename): i for i in archive.infolist() if not i.filename.endswith((".txt", "/"))}
    return archive, index


def _read_member(path: str, member: str) -> bytes:
    try:
        archive, index = _open_archive(path)
        return archive.read(index[_member_key(member)])
    except KeyError as error:
        raise AudioProblem(f"missing in {Path(path).name}") from error
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise AudioProblem(f"unreadable in {Path(path).name} ({error})") from error


def _pcm_samples(data: bytes) -> tuple[np.ndarray, tuple[str, ...]]:
    """Read headerless PCM without the surplus last byte that every KsponSpeech eval file has."""
    samples = np.frombuffer(data, "<i2", count=len(data) // 2)
    return samples, ("odd byte dropped",) if len(data) % 2 else ()


def _cut(
    samples: np.ndarray, repairs: tuple[str, ...], source: AudioSource
) -> tuple[np.ndarray, tuple[str, ...]]:
    if not source.start and source.end is None:
        return samples, repairs
    end = len(samples) if source.end is None else round(source.end * SAMPLE_RATE)
    return samples[round(source.start * SAMPLE_RATE) : end], repairs


def _read_container(file: str | io.BytesIO, source: AudioSource) -> tuple[np.ndarray, tuple[str, ...]]:
    with AudioReader(file) as audio:
        exact = audio.rate == SAMPLE_RATE and audio.channels == 1 and audio.pcm16
        samples = joined(audio, source.start, source.end, "int16" if exact else "float32")
    return (samples, ()) if exact else _to_int16(samples, audio.rate, audio.repairs)


def _to_int16(samples: np.ndarray, rate: int, repairs: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    if rate != SAMPLE_RATE:
        import soxr

        samples = soxr.resample(samples, rate, SAMPLE_RATE, quality="VHQ")
        repairs = (*repairs, "resampled to 16 kHz")
    return np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16), repairs


def measure(samples: np.ndarray) -> AudioFacts:
    """Measure int16 [samples]. Raises AudioProblem when there is no signal."""
    if len(samples) == 0:
        raise AudioProblem("empty audio")
    if len(samples) < MIN_SECONDS * SAMPLE_RATE:
        raise AudioProblem(f"shorter than {MIN_SECONDS} s")
    low, high = int(samples.min()), int(samples.max())
    if low == high:
        raise AudioProblem("no signal (every sample is the same)")
    wave = samples.astype(np.float32)
    clipped = (
        int(np.count_nonzero((samples == 32767) | (samples == -32768)))
        if high == 32767 or low == -32768
        else 0
    )
    dc = float(wave.mean())
    energy = max(float(wave @ wave), 1.0)
    whole = wave[: len(wave) // _FRAME * _FRAME].reshape(-1, _FRAME)
    frames = np.einsum("ij,ij->i", whole, whole)
    centred = energy - len(wave) * dc * dc
    neighbours = float(wave[1:] @ wave[:-1]) - len(wave) * dc * dc
    return AudioFacts(
        samples=len(samples),
        peak=max(high, -low) / 32768,
        clipped=clipped,
        dc=dc / 32768,
        rms_db=float(10 * np.log10(energy / len(wave)) - 90.309),
        silent=float(np.count_nonzero(frames < _FRAME * SILENCE_RMS**2) / max(1, len(frames))),
        correlation=neighbours / max(centred, 1.0),
    )


def flac_bytes(samples: np.ndarray, effort: float = 0.625) -> bytes:
    """Encode int16 [samples] at 16 kHz losslessly.

    ``effort`` 0 is a quarter faster than the encoder's usual 0.625, and 2 % larger, on speech.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, "PCM_16", format="FLAC", compression_level=effort)
    return buffer.getvalue()


def flac_digest(flac: bytes) -> int:
    """Return a signed 64-bit hash of the samples: part of the MD5 in ``flac``'s STREAMINFO (RFC 9639).

    Hashing the samples once more would cost a tenth of what encoding them does.
    """
    return int.from_bytes(flac[26:34], "little", signed=True)
