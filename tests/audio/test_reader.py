"""The one reader: what is read whole, repaired or refused, in preparation, evaluation and the clients."""

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ko_asr.audio.corpus_audio import AudioProblem
from ko_asr.audio.corpus_audio import read_audio as read_corpus
from ko_asr.audio.mpeg import frames
from ko_asr.audio.read import read_audio, read_segment
from ko_asr.audio.reader import AudioReader
from ko_asr.audio.source import AudioSource
from ko_asr.audio.stream import AudioStream
from ko_asr.errors import UserError

RATE = 16_000
SAMPLES = (0.3 * np.sin(2 * np.pi * 220 * np.arange(8 * RATE) / RATE) * np.linspace(0.1, 1, 8 * RATE)).astype(
    np.float32
)


def encoded(path: Path, format_: str, subtype: str | None = None, rate: int = RATE, **more) -> bytes:
    soundfile.write(path, SAMPLES, rate, subtype, format=format_, **more)
    return path.read_bytes()


def wav(size: int, data: bytes) -> bytes:
    """A WAV whose header promises ``size`` bytes of samples."""
    head = struct.pack("<IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + head + b"data" + struct.pack("<I", size) + data


def of_unknown_length(flac: bytes) -> bytes:
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:]


def without_tag(mp3: bytes, path: Path) -> bytes:
    path.write_bytes(mp3)
    with path.open("rb") as file:
        found = frames(file)
    assert found is not None
    return mp3[found.begin :]


def vbr(path: Path) -> bytes:
    """Silence, then noise: the first frames' bit rate is a fraction of the rest's."""
    noise = np.random.default_rng(0).normal(0, 0.2, 4 * RATE)
    with soundfile.SoundFile(path, "w", RATE, 1, format="MP3", bitrate_mode="VARIABLE") as file:
        file.write(np.r_[np.zeros(2 * RATE), noise, np.zeros(2 * RATE)])
    return without_tag(path.read_bytes(), path)


PCM = (SAMPLES * 32767).astype("<i2").tobytes()
WHOLE: dict[str, tuple[Callable[[Path], bytes], int]] = {  # file, length in samples
    "wav": (lambda p: wav(len(PCM), PCM), len(SAMPLES)),
    "wav with a size of 0": (lambda p: wav(0, PCM), len(SAMPLES)),
    "wav from ffmpeg's pipe": (lambda p: wav(0xFFFFFFFF, PCM), len(SAMPLES)),
    "wav from sox's pipe": (lambda p: wav(0x7FFFFFDB, PCM), len(SAMPLES)),
    "wav from arecord's pipe": (lambda p: wav(0x80000000, PCM), len(SAMPLES)),
    "gsm": (lambda p: encoded(p, "WAV", "GSM610"), len(SAMPLES)),
    "g721": (lambda p: encoded(p, "WAV", "G721_32"), len(SAMPLES)),
    "adpcm": (lambda p: encoded(p, "WAV", "IMA_ADPCM"), len(SAMPLES)),
    "flac of unknown length": (lambda p: of_unknown_length(encoded(p, "FLAC")), len(SAMPLES)),
    "chained vorbis": (lambda p: 2 * encoded(p, "OGG", "VORBIS"), 2 * len(SAMPLES)),
    "chained opus": (lambda p: 2 * encoded(p, "OGG", "OPUS"), 2 * len(SAMPLES)),
    "mp3": (lambda p: encoded(p, "MP3"), len(SAMPLES)),
    "mp3 behind zeros": (lambda p: bytes(5000) + encoded(p, "MP3"), len(SAMPLES)),
    "mp3 behind a tag and zeros": (
        lambda p: b"ID3\3\0\0\0\0\7\x76" + bytes(1014 + 3000) + encoded(p, "MP3"),
        len(SAMPLES),
    ),
    "mp3 before a tag": (lambda p: encoded(p, "MP3") + b"TAG" + bytes(125), len(SAMPLES)),
    "mp3 of variable bit rate without a length": (vbr, len(SAMPLES)),
    "two mp3 in one": (lambda p: 2 * encoded(p, "MP3"), 2 * len(SAMPLES)),
}
HALF = slice(None, -len(PCM) // 2)
BROKEN: dict[str, tuple[Callable[[Path], bytes], str]] = {  # file, reason
    "cut wav": (lambda p: wav(len(PCM), PCM[HALF]), "cut off"),
    "two wav in one": (lambda p: 2 * wav(len(PCM), PCM), "another recording"),
    "wav that went on": (lambda p: wav(9000, PCM), "does not count"),
    **{
        f"cut {kind} {subtype}".lower(): (
            lambda p, kind=kind, subtype=subtype: (data := encoded(p, kind, subtype))[: len(data) // 2],
            "cut off",
        )
        for kind, subtype in [
            ("RF64", None), ("W64", None), ("AIFF", None), ("AU", None), ("WAV", "GSM610"), ("FLAC", None),
            ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None),
        ]
    },
    "cut mp3 without a length": (lambda p: without_tag(encoded(p, "MP3"), p)[:-40], "cut off"),
    "m4a": (lambda p: b"\0\0\0 ftypM4A " + bytes(100), "M4A"),
    "0 bytes": (lambda p: b"", "empty|0 bytes"),
    "text": (lambda p: "이것은 소리가 아니다".encode(), "audio"),
}  # fmt: skip


def all_readers(path: Path) -> list[Callable[[], object]]:
    return [
        lambda: np.concatenate(list(AudioStream(path))),
        lambda: read_audio(path),
        lambda: read_segment({"audio_filepath": str(path), "duration": 1.0}, RATE),
        lambda: read_corpus(AudioSource(str(path)))[0] / 32768,
        lambda: read_corpus(AudioSource(str(path), start=0.0, end=90.0))[0] / 32768,
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_all_of_the_audio_is_read_alike(tmp_path: Path, name: str) -> None:
    make, length = WHOLE[name]
    path = tmp_path / "파일"
    path.write_bytes(make(tmp_path / "made"))
    heard = [read() for read in all_readers(path)[:4]]
    for samples in heard:
        assert 0 <= len(samples) - length < 3500  # codecs pad
        assert np.allclose(samples, heard[0], atol=2 / 32768)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_missing_is_named_by_every_reader(tmp_path: Path, name: str) -> None:
    make, reason = BROKEN[name]
    path = tmp_path / "파일"
    path.write_bytes(make(tmp_path / "made"))
    for read in all_readers(path):
        with pytest.raises((UserError, AudioProblem), match=reason):
            read()


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "NaN"), (np.inf, "NaN"), (9000.0, "scale|-1 to 1")])
def test_numbers_that_are_no_sound_are_refused(tmp_path: Path, value: float, reason: str) -> None:
    samples = SAMPLES.copy()
    samples[90_000] = value
    path = tmp_path / "x.wav"
    soundfile.write(path, samples, RATE, "FLOAT")
    for read in all_readers(path)[:4]:
        with pytest.raises((UserError, AudioProblem), match=reason):
            read()


def test_channels_that_cancel_out_are_heard(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.stack([SAMPLES, -SAMPLES], 1), RATE)
    for read in all_readers(path)[:4]:
        assert np.allclose(read(), SAMPLES, atol=2 / 32768)
    assert read_corpus(AudioSource(str(path)))[1] == ("one channel of several that cancel out",)


def test_a_piece_of_a_cut_file_is_there_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(wav(len(PCM), PCM[HALF]))
    assert len(read_corpus(AudioSource(str(path), start=1.0, end=3.0))[0]) == 2 * RATE
    with pytest.raises(AudioProblem, match="cut off"):
        read_corpus(AudioSource(str(path), start=3.0, end=5.0))


def test_what_is_no_file_is_a_sentence(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "pipe", "pipe"),
        (tmp_path, "folder|directory"),
        (tmp_path / "x", "missing"),
    ):
        for read in all_readers(path):
            with pytest.raises((UserError, AudioProblem), match=words):
                read()


def test_a_name_in_cp949_and_a_file_that_grows(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + "/가.wav".encode("cp949")))
    path.write_bytes(wav(0xFFFFFFFF, PCM))
    assert len(read_audio(path)) == len(SAMPLES)
    with AudioReader(path) as audio, path.open("ab") as more:
        more.write(PCM)
        more.flush()
        with pytest.raises(AudioProblem, match="grew"):
            list(audio.blocks())


def test_the_page_tells_what_becomes_of_each_file() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/audio.md").read_text(encoding="utf-8")
    rows = [f"| {name} | read whole |" for name in WHOLE] + [f"| {name} | refused |" for name in BROKEN]
    assert [row for row in rows if row not in page] == []


def test_an_ogg_that_begins_in_the_middle_of_a_stream_is_a_problem() -> None:
    data = io.BytesIO()
    soundfile.write(data, np.zeros(8000), 16_000, format="OGG")
    data.getbuffer()[5] = 0  # no page says that it is the first
    with pytest.raises(AudioProblem):
        AudioReader(data)
