"""Every training config: its header keeps its promises, and it trains, saves and restores at size xs."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ko_asr.data.manifest import read_manifest
from ko_asr.text.tokenizer import train

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "conf").glob("fastconformer*.yaml"))

# One process for all: importing NeMo costs more than a config. Each goes the way of debug=true, which checks
# shapes, loss, gradients, optimiser, checkpoint and the restored .nemo, and raises where one does not hold.
DEBUG_EACH = """
import json, shutil, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pathlib import Path
from ko_asr.models.nemo_file import quiet_nemo
quiet_nemo()
from ko_asr.training.debug import debug
from ko_asr.training.small_run import choose, run_small, small_config
from ko_asr.training.train import new_model

conf, work, overrides = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
found = {}
with initialize_config_dir(conf, version_base="1.3"):
    for name, own in overrides.items():
        config = compose(name, own)
        if name == "fastconformer_ko":  # its .nemo is the "English" model of fastconformer_ko_from_english
            entries = choose(config, config.model.train_ds.manifest_filepath, 3)
            donor = run_small(small_config(config, work, entries, entries, 1), new_model, [])
            shutil.copy(donor, work / "english.nemo")
        debug(config, new_model)
        found[name] = OmegaConf.to_container(config.model.encoder, resolve=True)
(work / "found.json").write_text(json.dumps(found), encoding="utf-8")
"""


def header(name: str) -> str:
    lines = (ROOT / f"conf/{name}.yaml").read_text(encoding="utf-8").splitlines()
    return "\n".join(
        line.lstrip("# ") for line in lines[: next(k for k, s in enumerate(lines) if s[:1] != "#")]
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_header_names_a_launch_command_that_exists(name: str) -> None:
    text = header(name)
    assert all(part in text for part in ("For:", "Prerequisites:", "Launch:"))
    command = shlex.split(text.split("Launch:")[1].split("\n\n")[0].replace("\\\n", " "))
    assert command[:2] == ["python", "recipes/train_ctc.py"] and (ROOT / command[1]).is_file()
    assert command[2:4] == ["--config-name", name]


def test_sizes_are_what_they_say() -> None:
    """Parameters of each size, counted from its shapes, beside the figure in its first comment."""
    import yaml

    paths = sorted((ROOT / "conf/size").glob("*.yaml"))
    assert [path.stem for path in paths] == ["l", "m", "s", "xl", "xs"]
    for path in paths:
        said = float(
            next(w for w in path.read_text(encoding="utf-8").split() if w.replace(".", "").isdigit())
        )
        encoder = yaml.safe_load(path.read_text(encoding="utf-8"))
        d, layers = encoder["model"]["encoder"]["d_model"], encoder["model"]["encoder"]["n_layers"]
        feed_forward, attention, convolution = 16 * d * d, 5 * d * d, 3 * d * d
        channels = encoder["model"]["encoder"]["subsampling_conv_channels"]
        total = layers * (feed_forward + attention + convolution) + 10 * channels * d + 2 * channels**2
        assert total / 1e6 + 1024 * d / 1e6 == pytest.approx(said, rel=0.08), path.name
        assert 0 < encoder["middle_layer"] < layers


def test_every_config_trains_saves_and_restores(demo, tmp_path: Path) -> None:
    texts = [entry["text"] for entry in read_manifest(demo.manifests["train"])]
    train("syllable", texts, tmp_path / "syllables")
    # What differs from the config itself is the size, the data, the machine, and the tokenizer.
    small = ["size=xs", "data=demo", "trainer.accelerator=cpu", "trainer.precision=32"]
    four_times = ("fastconformer_ko_demo", "fastconformer_ko_streaming_demo", "fastconformer_ko_jamo")
    overrides = {name: list(small) for name in CONFIGS}
    for name in set(CONFIGS) - set(four_times):
        overrides[name].append(f"data.tokenizer={tmp_path}/syllables")
    overrides["fastconformer_ko_jamo"].append(f"data.tokenizer={ROOT}/tokenizers/jamo")
    overrides["fastconformer_ko_from_english"].append(
        f"init_from_nemo_model.english.path={tmp_path}/english.nemo"
    )
    (tmp_path / "each.py").write_text(DEBUG_EACH, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, tmp_path / "each.py", ROOT / "conf", tmp_path, json.dumps(overrides)],
        cwd=demo.work, capture_output=True, encoding="utf-8", timeout=400,
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert done.stdout.count("debug: everything holds") == len(CONFIGS)
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert all(encoder["d_model"] == 128 for encoder in found.values())
    assert found["fastconformer_ko_long"]["self_attention_model"] == "rel_pos_local_attn"
    assert found["fastconformer_ko_jamo"]["subsampling_factor"] == 4
