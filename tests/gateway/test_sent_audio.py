"""Audio as people send it: headers that programs leave behind, pictures, telephones, pieces of recordings."""

import io
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gateway_process import GatewayProcess, ffmpeg

from ko_asr.audio.read import read_audio
from ko_asr.evaluation.metrics import score

FORM = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16)
COVER = ("-map", "0:a", "-map", "1:v", "-c:v", "copy")
MADE = {  # what ffmpeg is told, behind the names of the audio and a picture
    "3gp of a telephone": ("-map", "0:a", "-ar", "8000", "-c:a", "libopencore_amrnb", "-f", "3gp"),
    "3gp with aac": ("-map", "0:a", "-c:a", "aac", "-f", "3gp"),
    "mp3 with a large picture": (*COVER, "-id3v2_version", "3", "-c:a", "libmp3lame", "-f", "mp3"),
    "mp3 of variable bit rate": ("-map", "0:a", "-c:a", "libmp3lame", "-q:a", "4", "-f", "mp3"),
    "the same without a length": (
        "-map",
        "0:a",
        "-c:a",
        "libmp3lame",
        "-q:a",
        "4",
        "-write_xing",
        "0",
        "-f",
        "mp3",
    ),
    "m4a with a cover": (*COVER, "-disposition:v:0", "attached_pic", "-c:a", "aac", "-f", "ipod"),
    "fragmented mp4": ("-map", "0:a", "-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"),
    "mp4 with opus": ("-map", "0:a", "-c:a", "libopus", "-f", "mp4"),
    "rf64": ("-map", "0:a", "-c:a", "pcm_s24le", "-rf64", "always", "-f", "wav"),
    "ogg": ("-map", "0:a", "-c:a", "libopus", "-f", "ogg"),
    "webm": ("-map", "0:a", "-c:a", "libopus", "-f", "webm"),
}


@pytest.fixture(scope="module")
def pcm(files: list[Path]) -> bytes:
    samples = np.clip(np.round(read_audio(files[0]) * 32768), -32768, 32767)
    return samples.astype("<i2").tobytes()


@pytest.fixture(scope="module")
def made(files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """A function that gives the first utterance in a form of `MADE`."""
    converter, folder = ffmpeg(), tmp_path_factory.mktemp("made")
    if converter is None:
        pytest.skip("no ffmpeg on this machine")
    picture = folder / "picture.png"
    call = (converter, "-y", "-loglevel", "error")
    subprocess.run(
        [*call, "-f", "lavfi", "-i", "mandelbrot=s=640x640", "-frames:v", "1", picture], check=True
    )

    def make(kind: str) -> bytes:
        target = folder / "made"
        done = subprocess.run(
            [*call, "-i", files[0], "-i", picture, *MADE[kind], target], capture_output=True
        )
        if done.returncode:
            pytest.skip(f"this machine's ffmpeg does not encode {kind}: {done.stderr[-100:]!r}")
        return target.read_bytes()

    return make


def wav(data: bytes, size: int | None = None, whole: int | None = None, before: bytes = b"") -> bytes:
    """A WAV of ``data`` whose header tells of ``size`` bytes of samples and ``whole`` of everything."""
    body = b"WAVE" + FORM + before + b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", len(body) if whole is None else whole) + body


def text(gateway: GatewayProcess, data: bytes, **fields: str) -> str:
    answer = gateway.post(data={"model": "asr", **fields}, files={"file": data})
    assert answer.status_code == 200, answer.text
    return answer.json()["text"]


def refused(gateway: GatewayProcess, data: bytes, status: int = 400, **fields: str) -> str:
    return gateway.error(status, data={"model": "asr", **fields}, files={"file": data})["message"]


def test_headers_as_recorders_leave_them(gateway, files, pcm) -> None:
    odd = b"LIST" + struct.pack("<I", 5) + b"abcde\0"
    for data in (
        wav(pcm, 0),
        wav(pcm, 0, 0),
        wav(pcm, 0xFFFFFFFF, 0xFFFFFFFF),
        wav(pcm, 0x7FFFFFFF),
        wav(pcm, before=odd),
        wav(pcm, before=b"JUNK" + struct.pack("<I", 28) + bytes(28)),
        wav(pcm) + b"LIST" + struct.pack("<I", 4) + b"abcd",
        wav(pcm + b"x"),
    ):
        assert text(gateway, data) == gateway.text(files[0]), data[:60]


def test_the_forms_of_wav(gateway, files) -> None:
    samples, wanted = read_audio(files[0]), gateway.text(files[0])
    for kind, subtype in (("WAVEX", "PCM_24"), ("RF64", "PCM_24"), ("W64", "PCM_32"), ("WAV", "DOUBLE")):
        for channels in (1, 6):
            buffer = io.BytesIO()
            soundfile.write(buffer, np.tile(samples[:, None], channels), 16_000, subtype, format=kind)
            assert text(gateway, buffer.getvalue()) == wanted, (kind, channels)


@pytest.mark.parametrize("kind", MADE)
def test_pictures_telephones_and_containers(gateway, files, made, kind: str) -> None:
    assert score(gateway.text(files[0]), text(gateway, made(kind))).cer < 0.3  # telephones lose much


def test_amr_wideband(gateway) -> None:
    """Frames of noise, 100 of 20 ms: no free encoder writes it."""
    random = np.random.default_rng(0)
    frames = [b"\x04" + random.integers(0, 256, 17, dtype=np.uint8).tobytes() for _ in range(100)]
    answer = gateway.post(data={"model": "asr"}, files={"file": b"#!AMR-WB\n" + b"".join(frames)})
    if answer.status_code == 415:
        pytest.skip("no ffmpeg on this machine")
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["seconds"] == pytest.approx(2.0, abs=0.05)


def test_samples_without_a_header(gateway, files, pcm) -> None:
    import soxr

    wanted = gateway.text(files[0])
    assert text(gateway, pcm, encoding="LINEAR16", sample_rate="16000") == wanted
    assert text(gateway, pcm[:-1], encoding="LINEAR16", sample_rate="16000") == wanted
    narrow = soxr.resample(read_audio(files[0]), 16_000, 8_000)
    for encoding, subtype in (("MULAW", "ULAW"), ("ALAW", "ALAW")):
        buffer, with_header = io.BytesIO(), io.BytesIO()
        soundfile.write(buffer, narrow, 8000, subtype, format="RAW")
        soundfile.write(with_header, narrow, 8000, subtype, format="WAV")
        headed = text(gateway, with_header.getvalue())
        assert text(gateway, buffer.getvalue(), encoding=encoding, sample_rate="8000") == headed
    stereo = np.stack([np.frombuffer(pcm, "<i2")] * 2, axis=1).tobytes()
    fields = {"encoding": "LINEAR16", "sample_rate": "16000", "channel_count": "2"}
    assert text(gateway, stereo, **fields) == wanted


def test_samples_without_a_header_need_to_be_described(gateway, files, pcm) -> None:
    for fields, words in (
        ({"encoding": "LINEAR16"}, "sample_rate is missing"),
        ({"encoding": "MULAW", "sample_rate": "8e3"}, "a number from 4000"),
        ({"encoding": "OGG_OPUS", "sample_rate": "8000"}, "other files need no encoding"),
        ({"encoding": "ALAW", "sample_rate": "8000", "channel_count": "9"}, "from 1 to 8"),
    ):
        assert words in refused(gateway, pcm, **fields)
    headed = {"encoding": "LINEAR16", "sample_rate": "16000"}
    assert "has the header of FLAC" in refused(gateway, files[0].read_bytes(), **headed)
    assert "has the header of WAV" in refused(gateway, wav(pcm) * 20, **headed)  # which lies in a file


def test_recordings_that_were_put_together(gateway, files, made) -> None:
    once = gateway.text(files[0])
    for kind in ("ogg", "webm"):
        twice = text(gateway, 2 * made(kind))
        assert len(twice) > 1.5 * len(once), kind
    for kind in ("fragmented mp4", "mp4 with opus"):
        assert "holds two recordings: send each for itself" in refused(gateway, 2 * made(kind)), kind


def test_a_piece_without_the_beginning_is_told_what_it_is(gateway, made) -> None:
    webm, mp4, ogg = made("webm"), made("fragmented mp4"), made("ogg")
    for data in (
        webm[webm.index(b"\x1f\x43\xb6\x75") :],
        mp4[mp4.index(b"moof") - 4 :],
        ogg[ogg.index(b"OggS", 200) :],
        bytes.fromhex("43318101e080ff8302fd3bfffe7030549083e39f") + bytes(2000),
    ):
        assert "is a later piece of a recording" in refused(gateway, data), data[:20]


def test_an_ogg_of_very_many_streams_is_refused_at_once(gateway, made) -> None:
    data = made("ogg")
    first = data[: data.index(b"OggS", data.index(b"OpusTags"))]  # the headers of a stream
    assert "more than 1000 streams in a row" in refused(gateway, (20 << 20) // len(first) * first)
