"""Audio as people send it, and files that are made to hurt."""

import io
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from gateway_process import GatewayProcess, ffmpeg

from ko_asr.audio.read import read_audio

WAVS = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM")
LIBSNDFILE = [("WAV", kind) for kind in WAVS] + [
    ("WAVEX", "PCM_16"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]
FFMPEG = {
    "webm": ("-c:a", "libopus", "-f", "webm"),
    "live webm": ("-c:a", "libopus", "-f", "webm", "-live", "1"),  # without a length, as a browser records
    "fragmented mp4": ("-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-f", "mp4"),
    "m4a": ("-c:a", "aac", "-f", "ipod"),
    "alac": ("-c:a", "alac", "-f", "ipod"),
    "3gp": ("-c:a", "aac", "-f", "3gp"),
    "aac": ("-c:a", "aac", "-f", "adts"),
    "amr": ("-ar", "8000", "-c:a", "libopencore_amrnb", "-b:a", "12.2k", "-f", "amr"),
    "mp4 with a picture": ("-f", "lavfi", "-i", "color=s=64x64", "-shortest", "-c:v", "mpeg4", "-f", "mp4"),
}


@pytest.fixture(scope="module")
def speech(files: list[Path]) -> np.ndarray:
    return read_audio(files[0])


@pytest.fixture(scope="module")
def converter() -> str:
    found = ffmpeg()
    if found is None:
        pytest.skip("no ffmpeg on this machine")
    return found


@pytest.fixture
def made(converter: str, files: list[Path], tmp_path: Path):
    """A function that encodes the first utterance with ffmpeg."""

    def make(kind: str) -> Path:
        target = tmp_path / "audio"
        command = [converter, "-y", "-loglevel", "error", "-i", str(files[0])]
        done = subprocess.run([*command, *FFMPEG[kind], str(target)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine's ffmpeg does not encode {kind}: {done.stderr.splitlines()[-1]}")
        return target

    return make


def encoded(samples: np.ndarray, rate: int, kind: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format=kind)
    return buffer.getvalue()


def sent(gateway: GatewayProcess, data: bytes) -> str:
    answer = gateway.post(data={"model": "asr"}, files={"file": data})
    assert answer.status_code == 200, answer.text
    return answer.json()["text"]


def refused(gateway: GatewayProcess, status: int, data: bytes) -> dict:
    return gateway.error(status, data={"model": "asr"}, files={"file": data})


def test_what_libsndfile_reads(gateway, files, speech) -> None:
    wanted, texts = gateway.text(files[0]), {}
    for kind, subtype in LIBSNDFILE:
        texts[kind, subtype] = sent(gateway, encoded(speech, 16_000, kind, subtype))
    exact = [texts["WAV", "PCM_16"], texts["WAV", "FLOAT"], texts["WAVEX", "PCM_16"], texts["FLAC", "PCM_16"]]
    assert exact == [wanted] * 4
    assert sum(text == wanted for text in texts.values()) >= len(LIBSNDFILE) - 3, texts  # some lose much
    assert all(texts.values())


@pytest.mark.parametrize("kind", FFMPEG)
def test_what_ffmpeg_reads(gateway, files, made, kind: str) -> None:
    text, wanted = sent(gateway, made(kind).read_bytes()), gateway.text(files[0])
    assert text == wanted or (kind == "amr" and len(text) > len(wanted) / 2)  # telephone quality


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channels(gateway, files, speech, rate: int, channels: int) -> None:
    import soxr

    mono = soxr.resample(speech, 16_000, rate)
    text = sent(gateway, encoded(np.tile(mono[:, None], channels), rate, "WAV", "PCM_24"))
    assert text == gateway.text(files[0]) or (rate == 8_000 and text)


def test_channels_that_cancel_out_are_heard(gateway, files, speech) -> None:
    data = encoded(np.stack([speech, -speech], axis=1), 16_000, "WAV", "FLOAT")
    assert sent(gateway, data) == gateway.text(files[0])


def test_a_wav_that_claims_two_terabytes_is_read_as_what_it_is(gateway, files, speech) -> None:
    samples = np.clip(np.round(speech * 32768), -32768, 32767).astype("<i2").tobytes()
    form, unset = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16_000, 32_000, 2, 16), b"\xff" * 4
    streamed = b"RIFF" + unset + b"WAVE" + form + b"data" + unset + samples
    assert sent(gateway, streamed) == gateway.text(files[0])
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 2 << 40, 2 << 40, 1 << 40, 0)
    wide = b"RF64" + unset + b"WAVE" + sizes + form + b"data" + unset + samples
    assert "cut off" in refused(gateway, 400, wide)["message"]


def test_headers_that_no_recording_has(gateway) -> None:
    for rate, channels in ((500_000, 1), (192_000, 1024), (7, 1)):
        form = struct.pack("<IHHIIHH", 16, 1, channels, rate, 0, 2 * channels, 16)
        data = b"RIFF" + struct.pack("<I", 20_036) + b"WAVEfmt " + form + b"data" + struct.pack("<I", 20_000)
        error = refused(gateway, 400, data + bytes(20_000))
        assert error["param"] == "file", error


def test_cut_files(gateway, speech, made) -> None:
    for kind, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")):
        data = encoded(speech, 16_000, kind, subtype)
        error = refused(gateway, 400, data[: len(data) * 6 // 10])
        assert error["code"] == "invalid_audio" and "cut off" in error["message"]
    for kind in ("webm", "m4a", "fragmented mp4", "aac"):
        data = made(kind).read_bytes()
        assert "cut off" in refused(gateway, 400, data[: len(data) * 6 // 10])["message"], kind


def test_what_is_no_audio(gateway, tmp_path: Path) -> None:
    assert "0 bytes" in refused(gateway, 400, b"")["message"]
    assert "no samples" in refused(gateway, 400, encoded(np.zeros(0), 16_000, "WAV", "PCM_16"))["message"]
    short = refused(gateway, 400, encoded(np.ones(20), 16_000, "WAV", "PCM_16"))
    assert "20 samples; the least is" in short["message"]
    assert refused(gateway, 415, b"%PDF-1.7 " + bytes(1000))["code"] == "unknown_format"
    # Lists of other files, which ffmpeg would open
    for text in (
        "ffconcat version 1.0\nfile /etc/passwd\n",
        "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
    ):
        assert "passwd" not in refused(gateway, 415, text.encode())["message"]
    assert refused(gateway, 400, b"\x1a\x45\xdf\xa3" + bytes(100))["code"] == "invalid_audio"


def test_bytes_that_are_wrong_never_break_it(gateway, speech, made) -> None:
    """Headers and bodies with random bytes in them are answered, or refused with a reason."""
    random = np.random.default_rng(0)
    sound = [encoded(speech[:8000], 16_000, kind, subtype) for kind, subtype in LIBSNDFILE]
    for original in [*sound, made("webm").read_bytes(), made("m4a").read_bytes(), made("aac").read_bytes()]:
        for _ in range(6):
            data = bytearray(original)
            for at in random.integers(4, min(len(data), random.choice([64, 1000])), 8):
                data[at] = random.integers(256)
            answer = gateway.post(data={"model": "asr"}, files={"file": bytes(data)})
            assert answer.status_code in (200, 400, 413, 415), (bytes(data[:100]), answer.text)


def test_complaint_1_an_hour_of_silence_takes_no_memory(gateway, converter, tmp_path: Path) -> None:
    silence = ("-f", "lavfi", "-i", "anullsrc=r=48000:cl=mono", "-t", str(3600), "-c:a", "flac")
    for name in ("a.flac", "a.mka"):  # of which ffmpeg decodes the second
        target = tmp_path / name
        subprocess.run([converter, "-loglevel", "error", *silence, str(target)], check=True)
        before = gateway.memory_mib()
        error = refused(gateway, 413, target.read_bytes())
        assert error["code"] == "audio_too_long" and "1800 s" in error["message"]
        assert gateway.memory_mib() - before < 128, name  # decoded it is 660 MiB
    gateway.wait_until_empty()


def test_without_ffmpeg_the_rest_is_refused_with_its_name(demo, made, files, tmp_path: Path) -> None:
    with GatewayProcess(demo.url, tmp_path / "g", "--no-ffmpeg") as gateway:
        assert "M4A or MP4" in refused(gateway, 415, made("m4a").read_bytes())["message"]
        assert gateway.text(files[0])
