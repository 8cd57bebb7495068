"""A manifest as shards: a few large tar files that training reads from front to back.

Single files cost a disk seek and a file-system entry each; a shard of some hundred utterances costs one. The
utterances are shuffled over the shards once, so that any shard is a fair sample. Two formats that NeMo's
Lhotse data loader reads:

tarred  shards/audio_K.tar with manifest_K.json, NeMo's own
shar    shards/cuts.KKKKKK.jsonl.gz with recording.KKKKKK.tar, Lhotse Shar (nothing else may lie beside them)

A whole FLAC or WAV file at 16 kHz is copied byte for byte; a segment (``offset``), another rate or
several channels become FLAC. Each file of a shard is renamed into place when it is whole, the manifest last:
a manifest means a finished shard, which is how a run after a kill knows where to go on.
"""

import concurrent.futures
import gzip
import hashlib
import io
import json
import math
import multiprocessing
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ko_asr.audio.corpus_audio import flac_bytes
from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.runtime.frames import SAMPLE_RATE

FORMATS = ("tarred", "shar")
_NEMO_SLACK = 0.2  # seconds that NeMo allows between a manifest's duration and the file's


@dataclass(frozen=True)
class Plan:
    """Sources and settings of a folder of shards; a run goes on only with shards of the same plan."""

    manifest: str
    manifest_sha256: str
    format: str
    shards: int
    seed: int


def line_offsets(manifest: Path) -> np.ndarray:
    """Find the byte offsets of a manifest's lines that are not blank, int64: 5 MB for 620,000."""
    offsets, position = [], 0
    with manifest.open("rb") as stream:
        for line in stream:
            if line.strip():
                offsets.append(position)
            position += len(line)
    return np.array(offsets, np.int64)


def assignment(utterances: int, shards: int, seed: int) -> list[np.ndarray]:
    """Deal the utterances' numbers, shuffled by ``seed``, out to the shards in equal parts.

    >>> [part.tolist() for part in assignment(5, 2, seed=0)]
    [[2, 4, 3], [0, 1]]
    """
    return np.array_split(np.random.default_rng(seed).permutation(utterances), shards)


def _entry_at(stream, folder: Path, offset: int) -> dict:
    stream.seek(offset)
    entry = json.loads(stream.readline())
    entry["audio_filepath"] = str(folder / entry["audio_filepath"])
    return entry


def audio_bytes(entry: dict) -> tuple[bytes, str, int]:
    """Return (encoded audio, extension, samples) of an entry, 16 kHz mono; a file that fits is copied.

    ValueError says what is wrong with the audio, OSError that it cannot be opened.
    """
    import soundfile

    data = Path(entry["audio_filepath"]).read_bytes()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as audio:
            seconds = audio.frames / audio.samplerate
            is_whole = not entry.get("offset") and abs(seconds - entry["duration"]) < _NEMO_SLACK
            if (
                is_whole
                and (audio.samplerate, audio.channels) == (SAMPLE_RATE, 1)
                and audio.format in ("FLAC", "WAV")
            ):
                return data, audio.format.lower(), audio.frames
            samples = _segment(audio, entry, seconds)
            source_rate = audio.samplerate
    except soundfile.LibsndfileError as error:
        raise ValueError(f"not readable ({error.error_string})") from error
    if source_rate != SAMPLE_RATE:
        import soxr

        samples = soxr.resample(samples, source_rate, SAMPLE_RATE)
    clipped = np.clip(np.round(samples * 32768), -32768, 32767).astype(np.int16)
    return flac_bytes(clipped), "flac", len(clipped)


def _segment(audio, entry: dict, seconds: float) -> np.ndarray:
    start = entry.get("offset") or 0.0
    if start + entry["duration"] > seconds + _NEMO_SLACK:
        raise ValueError(f"the manifest says {start + entry['duration']:.2f} s, the file has {seconds:.2f} s")
    audio.seek(round(start * audio.samplerate))
    return audio.read(round(entry["duration"] * audio.samplerate), dtype="float32", always_2d=True).mean(1)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _member_stem(number: int, entry: dict) -> str:
    # NeMo takes "-sub1" at the end of a name for a segment's number; dots and slashes would split the key
    stem = Path(entry["audio_filepath"]).stem.replace("-sub", "_sub").replace(".", "_")
    return f"{number:08d}-{stem}"


class _TarredShard:
    """Writer of one NeMo shard, whose tar's members are named by the manifest's audio_filepath."""

    def __init__(self, out: Path, shard: int) -> None:
        self.tar = out / "shards" / f"audio_{shard}.tar"
        self.manifest = out / "shards" / f"manifest_{shard}.json"
        self._shard = shard

    def add(self, archive: tarfile.TarFile, stem: str, audio: bytes, extension: str, entry: dict) -> dict:
        _add(archive, f"{stem}.{extension}", audio)
        return entry | {"audio_filepath": f"{stem}.{extension}", "shard_id": self._shard}

    def lines(self, rows: Sequence[dict]) -> bytes:
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


class _SharShard:
    """Writer of one Lhotse Shar shard: audio, then its recording's description, member by member."""

    def __init__(self, out: Path, shard: int) -> None:
        self.tar = out / "shards" / f"recording.{shard:06d}.tar"
        self.manifest = out / "shards" / f"cuts.{shard:06d}.jsonl.gz"

    def add(self, archive: tarfile.TarFile, stem: str, audio: bytes, extension: str, entry: dict) -> dict:
        from lhotse import AudioSource, MonoCut, Recording, SupervisionSegment

        samples = entry.pop("_samples")
        source = AudioSource(type="shar", channels=[0], source="")
        recording = Recording(stem, [source], SAMPLE_RATE, samples, samples / SAMPLE_RATE, channel_ids=[0])
        text, language = entry.pop("text"), entry.pop("lang", None)
        del entry["audio_filepath"], entry["duration"], entry["sampling_rate"]
        supervision = SupervisionSegment(
            stem, stem, 0, recording.duration, text=text, language=language, speaker=entry.get("speaker")
        )
        cut = MonoCut(
            stem, 0, recording.duration, 0, [supervision], recording=recording, custom=entry or None
        )
        _add(archive, f"{stem}.{extension}", audio)
        _add(archive, f"{stem}.json", (json.dumps(recording.to_dict()) + "\n").encode())
        return cut.to_dict()

    def lines(self, rows: Sequence[dict]) -> bytes:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return gzip.compress(text.encode(), mtime=0)


def shard_files(out: Path, shard: int, format: str) -> tuple[Path, Path]:
    """Return the paths (tar, manifest) of a shard."""
    writer = _SharShard(out, shard) if format == "shar" else _TarredShard(out, shard)
    return writer.tar, writer.manifest


def write_shard(plan: Plan, out: Path, shard: int, numbers: np.ndarray, offsets: np.ndarray) -> list[dict]:
    """Write one shard, whole or not at all; return the utterances left out, each with its reason."""
    manifest = Path(plan.manifest)
    writer = _SharShard(out, shard) if plan.format == "shar" else _TarredShard(out, shard)
    rows, rejected = [], []
    with (
        manifest.open("rb") as stream,
        atomic_write(writer.tar, "wb") as target,
        tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for number, offset in zip(numbers.tolist(), offsets.tolist(), strict=True):
            entry = _entry_at(stream, manifest.absolute().parent, offset)
            try:
                audio, extension, samples = audio_bytes(entry)
            except (ValueError, OSError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                rejected.append({"audio_filepath": entry["audio_filepath"], "reason": reason})
                continue
            stem = _member_stem(number, entry)
            entry |= {"duration": samples / SAMPLE_RATE, "sampling_rate": SAMPLE_RATE}
            entry.pop("offset", None)
            if plan.format == "shar":
                entry["_samples"] = samples
            rows.append(writer.add(archive, stem, audio, extension, entry))
    with atomic_write(_rejected_file(out, shard)) as stream:
        json.dump(rejected, stream, ensure_ascii=False)
    with atomic_write(writer.manifest, "wb") as stream:
        stream.write(writer.lines(rows))
    return rejected


def _rejected_file(out: Path, shard: int) -> Path:
    return out / "left_out" / f"{shard}.json"


def make_plan(manifest: Path, format: str, utterances_per_shard: int, seed: int) -> tuple[Plan, np.ndarray]:
    """Make the plan for a manifest, with its lines' offsets; UserError when there is nothing to shard."""
    if not manifest.is_file():
        raise UserError(
            f"no manifest at {manifest}: prepare a corpus first, with recipes/prepare_ksponspeech.py say"
        )
    offsets = line_offsets(manifest)
    if not len(offsets):
        raise UserError(f"{manifest} holds no utterance: prepare the corpus again")
    with manifest.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    # at least two: NeMo takes a single file for an unsharded manifest, which it would read into memory
    shards = max(2, round(len(offsets) / utterances_per_shard))
    return Plan(str(manifest.absolute()), digest, format, min(shards, len(offsets)), seed), offsets


def claim_folder(out: Path, plan: Plan) -> set[int]:
    """Note the plan in ``out`` and return the shards that an earlier run finished.

    UserError when the folder holds shards of another plan: mixed shards would train on the wrong data.
    """
    note = out / "plan.json"
    if note.is_file():
        known = json.loads(note.read_text(encoding="utf-8"))
        if known != asdict(plan):
            changed = ", ".join(sorted(key for key in asdict(plan) if known.get(key) != asdict(plan)[key]))
            raise UserError(
                f"{out} holds shards of another plan ({changed} differ): choose or empty the folder"
            )
    elif out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out} is not empty and holds no shards of this script: choose another folder")
    else:
        with atomic_write(note) as stream:
            json.dump(asdict(plan), stream, ensure_ascii=False, indent=2)
    for leftover in (out / "shards").glob(".*.tmp"):  # of a killed run; Lhotse would take it for a shard
        leftover.unlink()
    return {k for k in range(plan.shards) if all(file.is_file() for file in shard_files(out, k, plan.format))}


def write_shards(
    plan: Plan,
    offsets: np.ndarray,
    out: Path,
    jobs: int,
    on_shard: Callable[[int], object] = lambda utterances: None,
) -> list[dict]:
    """Write all shards that are missing, ``jobs`` at a time; return every utterance left out.

    ``on_shard`` gets the number of utterances of each shard, finished ones included.
    """
    done = claim_folder(out, plan)
    parts = assignment(len(offsets), plan.shards, plan.seed)
    for shard in done:
        on_shard(len(parts[shard]))
    missing = [shard for shard in range(plan.shards) if shard not in done]
    for _ in _run(plan, out, missing, parts, offsets, jobs, on_shard):
        pass
    rejected: list[dict] = []
    for shard in range(plan.shards):
        rejected += json.loads(_rejected_file(out, shard).read_text(encoding="utf-8"))
    return rejected


def _run(
    plan: Plan,
    out: Path,
    shards: Sequence[int],
    parts: Sequence[np.ndarray],
    offsets: np.ndarray,
    jobs: int,
    on_shard: Callable[[int], object],
) -> Iterator[int]:
    if jobs == 1:
        for shard in shards:
            write_shard(plan, out, shard, parts[shard], offsets[parts[shard]])
            on_shard(len(parts[shard]))
            yield shard
        return
    context = multiprocessing.get_context("spawn")  # fork beside soundfile's and numpy's threads can deadlock
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as pool:
        running = {pool.submit(write_shard, plan, out, k, parts[k], offsets[parts[k]]): k for k in shards}
        try:
            for future in concurrent.futures.as_completed(running):
                future.result()
                on_shard(len(parts[running[future]]))
                yield running[future]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def bucket_duration_bins(durations: np.ndarray, buckets: int) -> list[float]:
    """Compute the [buckets - 1] ascending boundaries of duration buckets that hold equal seconds of audio.

    Lhotse's estimate_duration_buckets, except that equal boundaries, which a bucket without clips would
    need, are merged, so there can be fewer.

    >>> bucket_duration_bins(np.array([1.0, 1, 1, 1, 2, 2, 4]), 3)
    [2.0, 4.0]
    """
    ordered = np.sort(durations)
    before = np.concatenate([[0.0], np.cumsum(ordered)[:-1]])
    wanted = ordered.sum() * np.arange(1, buckets) / buckets
    places = np.searchsorted(before, wanted - 1e-9)
    bins = sorted({round(float(ordered[min(place, len(ordered) - 1)]), 3) for place in places})
    return [edge for edge in bins if edge > ordered[0]]


def checked_durations(manifest: Path) -> np.ndarray:
    """Read the durations of all utterances in seconds, float64 [utterances].

    UserError names the first line that is no manifest line: a worker would stumble on it much later.
    """
    durations = []
    with manifest.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                durations.append(_seconds(entry, "duration"))
                _seconds({"offset": 0.0} | entry, "offset")
                entry["text"] + entry["audio_filepath"]  # both there, both text
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"{manifest}:{number} is no manifest line ({error}): prepare the corpus again"
                ) from error
    return np.array(durations)


def _seconds(entry: dict, name: str) -> float:
    """Return a time of a manifest line; TypeError for no number, ValueError for nan and infinity."""
    value = entry[name]
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise TypeError(f"{name} is no number: {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}")
    return float(value)


def loader_options(out: Path, plan: Plan) -> dict[str, str]:
    """Return the keys of a NeMo data set configuration that read the shards."""
    folder = os.path.abspath(out / "shards")
    if plan.format == "shar":
        return {"shar_path": folder}
    last = plan.shards - 1
    return {
        "manifest_filepath": f"{folder}/manifest__OP_0..{last}_CL_.json",
        "tarred_audio_filepaths": f"{folder}/audio__OP_0..{last}_CL_.tar",
    }
