"""Noise and room impulse responses from the folders people have, as NeMo's training loader takes them.

Layouts known: MUSAN (music, noise, speech), DEMAND (ENVIRONMENT/chNN.wav, sixteen microphones of one scene),
OpenSLR 28 RIRS_NOISES (simulated_rirs, real_rirs_isotropic_noises, pointsource_noises), and any folder.
Licences are the corpora's own: MUSAN CC BY 4.0, DEMAND CC BY 4.0, RIRS_NOISES Apache 2.0.
"""

import gzip
import hashlib
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ko_asr.audio.corpus_audio import flac_bytes
from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.runtime.frames import SAMPLE_RATE

EXTENSIONS = {".wav", ".flac", ".ogg", ".mp3", ".opus"}
PARTS = ("noise", "music", "speech", "rir")
# Below this level (RMS of full scale, -70 dB) a file is silence: scaled to an SNR it would be amplified hiss,
# and digital silence would divide by zero.
_SILENCE = 10 ** (-70 / 20)


@dataclass(frozen=True)
class Sound:
    """File of a noise corpus and its kind, one of PARTS."""

    path: Path
    part: str


def detect_layout(folder: Path) -> str:
    """Return "musan", "demand", "rirs_noises" or "folder"; UserError when there is no folder."""
    if not folder.is_dir():
        raise UserError(
            f"no folder at {folder}: give the folder of MUSAN, DEMAND, RIRS_NOISES or of your own recordings"
        )
    names = {path.name for path in folder.iterdir() if path.is_dir()}
    if names & {"simulated_rirs", "real_rirs_isotropic_noises", "pointsource_noises"}:
        return "rirs_noises"
    if "noise" in names and names & {"music", "speech"}:
        return "musan"
    if any(folder.glob("*/ch01.wav")):
        return "demand"
    return "folder"


def _audio_files(folder: Path) -> Iterator[Path]:
    # AppleDouble files ("._x.wav") come with archives made on a Mac
    found = (
        path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.name[:2] != "._"
    )
    return iter(sorted(found))


def find_sounds(folder: Path, part: str = "noise") -> list[Sound]:
    """Find every audio file of a noise folder; ``part`` is the kind of those of an unknown layout."""
    layout = detect_layout(folder)
    if layout == "musan":
        sounds = [
            Sound(p, name) for name in ("noise", "music", "speech") for p in _audio_files(folder / name)
        ]
    elif layout == "demand":  # one microphone: the other fifteen hear the same scene
        sounds = [Sound(path, "noise") for path in sorted(folder.glob("*/ch01.wav"))]
    elif layout == "rirs_noises":
        sounds = [Sound(path, _rirs_noises_part(path)) for path in _audio_files(folder)]
    else:
        sounds = [Sound(path, part) for path in _audio_files(folder)]
    if not sounds:
        raise UserError(f"no audio ({', '.join(sorted(EXTENSIONS))}) below {folder}")
    return sounds


def _rirs_noises_part(path: Path) -> str:
    if "pointsource_noises" in path.parts:
        return "noise"
    if "simulated_rirs" in path.parts:
        return "rir"
    return "rir" if "rir" in path.stem.lower() else "noise"


def read_mono(path: Path) -> np.ndarray:
    """Read the first channel of a sound at 16 kHz, float32 [samples]; ValueError says why it is of no use.

    One channel, not the mean: microphones of an array cancel each other, and so do those of a room response.
    """
    import soundfile

    try:
        samples, source_rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"not readable ({error})") from error
    samples = samples[:, 0]
    if not len(samples) or not np.isfinite(samples).all():
        raise ValueError("empty" if not len(samples) else "holds values that are no numbers")
    if float(np.sqrt(np.mean(samples.astype(np.float64) ** 2))) < _SILENCE:
        raise ValueError("silence")
    if source_rate != SAMPLE_RATE:
        import soxr

        samples = soxr.resample(samples, source_rate, SAMPLE_RATE)
    return samples


def pieces(samples: int, rate: int, longest: float, shortest: float = 1.0) -> list[tuple[int, int]]:
    """Cut a sound into equal pieces of at most ``longest`` seconds: (start, end) in samples; [] if too short.

    A five-minute scene in one piece would be decoded whole for every three-second clip it is mixed into.

    >>> pieces(50, 10, 2.0), pieces(9, 10, 2.0)
    ([(0, 16), (16, 33), (33, 50)], [])
    """
    if samples < shortest * rate:
        return []
    count = -(-samples // round(longest * rate))
    edges = [samples * k // count for k in range(count + 1)]
    return list(itertools.pairwise(edges))


def trimmed_response(samples: np.ndarray, longest: float = 1.0) -> np.ndarray:
    """Cut a room response from 1 ms before its direct path to at most ``longest`` seconds, its peak at 1.

    Without this the delay before the direct path would shift the speech against its text's timing.
    """
    direct = int(np.argmax(np.abs(samples)))
    start = max(0, direct - SAMPLE_RATE // 1000)
    response = samples[start : start + round(longest * SAMPLE_RATE)]
    return response / np.abs(response).max()


def hold_out(sounds: Sequence[str], share: float, seed: int) -> set[str]:
    """Draw names kept from training, so that noisy test sets can be made of sounds the model never met."""
    names = sorted(set(sounds))
    random.Random(seed).shuffle(names)
    return set(names[: round(share * len(names))])


def convert(sound: Sound, out: Path, longest: float) -> list[tuple[Path, int]]:
    """Write a sound as FLAC pieces (a response: one) under ``out``: (file, samples) of each, kept if there.

    ValueError says why the sound is of no use.
    """
    samples = read_mono(sound.path)
    if sound.part == "rir":
        samples = trimmed_response(samples)
        spans = [(0, len(samples))]
    else:
        # clipped pieces stay clipped; quiet ones are scaled at mixing, where the SNR decides
        spans = pieces(len(samples), SAMPLE_RATE, longest)
        if not spans:
            raise ValueError("shorter than one second")
        spans = [span for span in spans if np.sqrt(np.mean(samples[slice(*span)] ** 2)) >= _SILENCE]
    digest = hashlib.sha1(str(sound.path.absolute()).encode(), usedforsecurity=False).hexdigest()[:10]
    written = []
    for number, (start, end) in enumerate(spans):
        path = out / sound.part / f"{sound.path.stem}-{digest}-{number:03d}.flac"
        if not path.is_file():
            integers = np.clip(np.round(samples[start:end] * 32767), -32768, 32767).astype(np.int16)
            with atomic_write(path, "wb") as stream:
                stream.write(flac_bytes(integers))
        written.append((path, end - start))
    return written


def write_recordings(path: Path, files: Sequence[tuple[Path, int]]) -> None:
    """Write a Lhotse RecordingSet of FLAC files, the form that NeMo's ``rir_path`` takes (absolute paths)."""
    with atomic_write(path, "wb") as stream:
        lines = [json.dumps(_recording(file.absolute(), samples)) + "\n" for file, samples in files]
        stream.write(gzip.compress("".join(lines).encode(), mtime=0))


def _recording(file: Path, samples: int) -> dict:
    source = {"type": "file", "channels": [0], "source": str(file)}
    recording = {"id": file.stem, "sources": [source], "sampling_rate": SAMPLE_RATE, "num_samples": samples}
    return recording | {"duration": samples / SAMPLE_RATE, "channel_ids": [0]}
