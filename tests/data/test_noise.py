"""recipes/prepare_noise.py on small trees of the published layouts, read back through NeMo's own loader."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile
from commands import run

from ko_asr.data.manifest import read_manifest, write_manifest

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(5)


def prepare(*arguments: object) -> subprocess.CompletedProcess:
    return run("recipes/prepare_noise.py", *arguments)


def write(path: Path, samples: np.ndarray, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate)


def noise(seconds: float, rate: int = 16_000, channels: int = 1) -> np.ndarray:
    return 0.05 * RNG.standard_normal((round(seconds * rate), channels))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("noise corpora")
    for number in range(4):
        write(root / f"musan/noise/free-sound/noise-free-sound-{number:04d}.wav", noise(2.5))
    write(root / "musan/music/fma/music-fma-0000.wav", noise(45, 22_050), 22_050)
    write(root / "musan/speech/librivox/speech-librivox-0000.wav", noise(3))
    write(root / "musan/noise/sound-bible/silence.wav", np.zeros(32_000))
    write(root / "musan/noise/sound-bible/click.wav", noise(0.2))
    (root / "musan/noise/sound-bible/._junk.wav").write_bytes(b"Mac")
    (root / "musan/noise/sound-bible/broken.wav").write_bytes(b"RIFF0000WAVE")
    (root / "musan/noise/free-sound/ANNOTATIONS").write_text("noise-free-sound-0000 x\n", encoding="utf-8")
    for channel in (1, 2, 16):
        write(root / f"demand/DKITCHEN/ch{channel:02d}.wav", noise(25, 48_000), 48_000)
    response = np.zeros((16_000, 8))
    response[480] = 0.5  # the direct path arrives after 30 ms
    response[481:9000] = 0.05 * RNG.standard_normal((8519, 8)) * np.exp(-np.arange(8519) / 1500)[:, None]
    write(root / "rirs/real_rirs_isotropic_noises/RWCP_type1_rir_cirline_jr1_imp000.wav", response)
    write(root / "rirs/real_rirs_isotropic_noises/RWCP_type1_noise_jr1.wav", noise(2))
    write(root / "rirs/simulated_rirs/smallroom/Room001/Room001-00001.wav", response[:, 0])
    write(root / "rirs/pointsource_noises/noise-free-sound-0001.wav", noise(2))
    return root


@pytest.fixture(scope="module")
def prepared(corpora, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared") / "out"
    done = prepare(
        "--noise",
        corpora / "musan",
        "--noise",
        corpora / "demand",
        "--rir",
        corpora / "rirs",
        "--out",
        out,
        "--held-out",
        0.3,
    )
    assert done.returncode == 0, done.stderr
    assert "augment=noise model.train_ds.noise_path=" in done.stdout
    return out


def test_what_is_taken_and_what_is_left_out(prepared):
    train, held_out = (
        list(read_manifest(prepared / "noise.json")),
        list(read_manifest(prepared / "noise_heldout.json")),
    )
    entries = train + held_out
    for entry in entries:
        info = soundfile.info(entry["audio_filepath"])
        assert (info.samplerate, info.channels, info.format) == (16_000, 1, "FLAC")
        assert info.duration == pytest.approx(entry["duration"]) and 1 <= entry["duration"] <= 20
    # four noises, 45 s of music in three pieces, 25 s of one DEMAND microphone in two; no speech
    assert len(entries) == 9 and {e["part"] for e in entries} == {"noise", "music"}
    sources = [
        {Path(e["audio_filepath"]).name.rsplit("-", 1)[0] for e in group} for group in (train, held_out)
    ]
    assert sources[0] and sources[1] and not sources[0] & sources[1]
    audit = json.loads((prepared / "audit.json").read_text(encoding="utf-8"))
    reasons = {Path(row["file"]).name: row["reason"] for row in audit["rejected"]}
    assert reasons["silence.wav"] == "silence" and reasons["click.wav"] == "shorter than one second"
    assert reasons["broken.wav"].startswith("not readable") and len(reasons) == 3


def loaded(**options: object) -> list:
    from ko_asr.models.nemo_file import quiet_nemo

    quiet_nemo()
    import torch
    from nemo.collections.common.data.lhotse import get_lhotse_dataloader_from_config
    from omegaconf import OmegaConf

    class Cuts(torch.utils.data.Dataset):
        def __getitem__(self, cuts):
            return cuts

    config = {
        "sample_rate": 16000,
        "num_workers": 0,
        "force_finite": True,
        "seed": 1,
        "shard_seed": 1,
        "batch_size": 8,
        "pin_memory": False,
        "shuffle": False,
        **options,
    }
    loader = get_lhotse_dataloader_from_config(OmegaConf.create(config), 0, 1, dataset=Cuts())
    return [cut for batch in loader for cut in batch]


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    entries = []
    for number in range(12):
        samples = 0.1 * np.sin(np.arange(32_000) * 0.05)
        write(folder / f"{number}.flac", samples)
        entries.append(
            {
                "audio_filepath": str(folder / f"{number}.flac"),
                "duration": 2.0,
                "text": "가",
                "sampling_rate": 16000,
            }
        )
    write_manifest(folder / "m.json", entries)
    return folder / "m.json"


@pytest.mark.slow
def test_nemo_mixes_the_noise_at_the_asked_snr(prepared, speech):
    clean = 0.1 * np.sin(np.arange(32_000) * 0.05)
    cuts = loaded(
        manifest_filepath=str(speech),
        noise_path=str(prepared / "noise.json"),
        noise_snr=[10, 30],
        noise_mix_prob=1.0,
    )
    ratios = []
    for cut in cuts:
        added = cut.load_audio()[0][:32_000] - clean
        ratios.append(10 * np.log10(np.mean(clean**2) / np.mean(added**2)))
    assert len(ratios) == 12 and min(ratios) > 8 and max(ratios) < 34 and max(ratios) - min(ratios) > 5


@pytest.mark.slow
def test_nemo_reverberates_with_the_responses(prepared, speech):
    clean = 0.1 * np.sin(np.arange(32_000) * 0.05)
    cuts = loaded(
        manifest_filepath=str(speech), rir_enabled=True, rir_path=str(prepared / "rir.jsonl.gz"), rir_prob=1.0
    )
    assert len(cuts) == 12
    for cut in cuts:
        audio = cut.load_audio()[0]
        assert len(audio) == 32_000 and np.isfinite(audio).all() and not np.allclose(audio, clean, atol=1e-3)
    # the response begins one millisecond before its direct path, so speech is not shifted against its text
    responses = list((prepared / "audio" / "rir").iterdir())
    assert responses
    for path in responses:
        response = soundfile.read(path)[0]
        assert np.argmax(np.abs(response)) == 16 and response[16] == pytest.approx(1.0, abs=1e-4)


def test_running_again_rewrites_nothing_and_gives_the_same_manifests(corpora, prepared):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*.flac")}
    manifest = (prepared / "noise.json").read_bytes()
    done = prepare(
        "--noise",
        corpora / "musan",
        "--noise",
        corpora / "demand",
        "--rir",
        corpora / "rirs",
        "--out",
        prepared,
        "--held-out",
        0.3,
    )
    assert done.returncode == 0, done.stderr
    assert before
    assert before == {path: path.stat().st_mtime_ns for path in prepared.rglob("*.flac")}
    assert manifest == (prepared / "noise.json").read_bytes()


def test_bad_input_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "silent" / "a.wav", np.zeros(16_000))
    for folder, expected in (("no", "no folder at"), ("empty", "no audio"), ("silent", "a.wav: silence")):
        done = prepare("--noise", tmp_path / folder, "--out", tmp_path / "out")
        assert done.returncode == 2 and expected in done.stderr and "Traceback" not in done.stderr, (
            done.stderr
        )
