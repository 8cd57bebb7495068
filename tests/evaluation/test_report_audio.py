"""The player of an utterance in evaluate.py's report: audio that LAME cannot take has none."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from ko_asr.evaluation.report import audio_data_uri


@pytest.mark.parametrize(
    ("value", "duration", "plays"),
    [(0.0, 2.0, True), (0.0, 1e300, False), (50.0, 2.0, True), (0.0, 0.0, False), (0.0, float("nan"), False),
     (np.nan, 2.0, False), (np.inf, 2.0, False), (1e30, 2.0, False)],
)  # fmt: skip
def test_only_sound_is_played(tmp_path: Path, value: float, duration: float, plays: bool) -> None:
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, 32_000)
    samples[5000] = value
    soundfile.write(tmp_path / "x.wav", samples, 16_000, "DOUBLE")
    uri = audio_data_uri({"audio_filepath": str(tmp_path / "x.wav"), "duration": duration})
    assert (uri is not None) == plays
