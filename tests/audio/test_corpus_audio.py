"""Corpus audio: exact samples where nothing has to change, named repairs and reasons where it does."""

import hashlib
import io

import numpy as np
import pytest
import soundfile

from ko_asr.audio.corpus_audio import flac_bytes, flac_digest, measure, read_audio
from ko_asr.audio.problem import AudioProblem
from ko_asr.audio.source import AudioSource

RATE = 16_000


def tone(rate: int = RATE, seconds: float = 1.0, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate) * 32767).astype(
        np.int16
    )


def write(path, samples, rate=RATE, **options):
    soundfile.write(path, samples, rate, **options)
    return AudioSource(str(path))


def test_containers_at_16_khz_are_bit_exact(tmp_path):
    samples = np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16)
    for name in ("a.wav", "a.flac"):
        heard, repairs = read_audio(write(tmp_path / name, samples, subtype="PCM_16"))
        assert np.array_equal(heard, samples) and repairs == ()
    flac = flac_bytes(samples)
    assert np.array_equal(soundfile.read(io.BytesIO(flac), dtype="int16")[0], samples)
    md5 = hashlib.md5(samples.tobytes()).digest()
    assert flac_digest(flac) == int.from_bytes(md5[:8], "little", signed=True)


@pytest.mark.parametrize(
    ("name", "rate", "channels"),
    # libsndfile's MP3 encoder distorts equal stereo channels, so MP3 is tested with one.
    [("a.wav", 48_000, 2), ("a.flac", 8_000, 2), ("a.ogg", 44_100, 2), ("a.mp3", 48_000, 1)],
)
def test_other_rates_keep_pitch_level_and_length(tmp_path, name, rate, channels):
    source = write(tmp_path / name, np.stack([tone(rate)] * channels, axis=1), rate)
    heard, repairs = read_audio(source)
    assert repairs == (*(["mixed down to mono"] if channels > 1 else []), "resampled to 16 kHz")
    assert abs(len(heard) - RATE) < 1200  # codecs pad
    middle = heard[2000:-2000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * RATE / len(middle) == pytest.approx(440, abs=2)
    assert np.std(middle) == pytest.approx(0.5 * 32767 / np.sqrt(2), rel=0.05)


def test_segments(tmp_path):
    samples = np.arange(RATE * 3, dtype=np.int16)
    wav = write(tmp_path / "a.wav", samples, subtype="PCM_16").path
    (tmp_path / "a.pcm").write_bytes(samples.tobytes())
    for source in (
        AudioSource(wav, start=0.5, end=1.25),
        AudioSource(str(tmp_path / "a.pcm"), headerless=True, start=0.5, end=1.25),
    ):
        heard, _ = read_audio(source)
        assert np.array_equal(heard, samples[RATE // 2 : RATE * 5 // 4])
    assert len(read_audio(AudioSource(wav, start=9.0))[0]) == 0
    assert np.array_equal(read_audio(AudioSource(wav, start=2.5))[0], samples[RATE * 5 // 2 :])


def test_reasons(tmp_path):
    (tmp_path / "text.wav").write_text("not audio", encoding="utf-8")
    (tmp_path / "empty.wav").touch()
    sources = {
        "missing file": AudioSource(str(tmp_path / "none.wav")),
        "missing file ": AudioSource(str(tmp_path / "none.wav"), start=1.0),
        "missing file  ": AudioSource(),
        "unreadable audio": AudioSource(str(tmp_path / "text.wav")),
        "empty file": AudioSource(str(tmp_path / "empty.wav")),
    }
    for reason, source in sources.items():
        with pytest.raises(AudioProblem, match=reason.strip()):
            read_audio(source)
    for samples in (np.zeros(0, np.int16), np.ones(100, np.int16), np.full(RATE, 7, np.int16)):
        with pytest.raises(AudioProblem):
            measure(samples)


def test_facts():
    facts = measure(tone())
    assert facts.peak == pytest.approx(0.5, abs=1e-3) and facts.clipped == 0 and facts.silent == 0
    assert facts.rms_db == pytest.approx(-9.03, abs=0.02) and facts.dc == pytest.approx(0, abs=1e-4)
    assert facts.correlation > 0.95
    loud = np.clip(tone().astype(int) * 4, -32768, 32767).astype(np.int16)
    assert measure(loud).clipped > 1000
    shifted = np.frombuffer(tone().tobytes()[1:-1], "<i2")  # a lost byte
    assert measure(np.concatenate([tone(), np.zeros(RATE, np.int16)])).silent == pytest.approx(0.5, abs=0.01)
    assert measure(shifted).correlation < 0.3
    assert measure(tone() + np.int16(1000)).dc == pytest.approx(1000 / 32768, rel=0.01)
