"""recipes/finetune.py by its front door: every strategy from an English model, adapters there and back."""

import subprocess
from pathlib import Path

import pytest
from commands import run, sentence

ROOT = Path(__file__).resolve().parents[2]
ENGLISH = [
    "the quick brown fox jumps over the lazy dog",
    "she sells sea shells by the sea shore",
    "how much wood would a woodchuck chuck",
]
STRATEGIES = {
    "full": ("encoder.", "decoder."),
    "head": ("decoder.",),
    "last_layers": ("encoder.layers.3.", "encoder.layers.4.", "decoder."),
    "adapters": (*(f"encoder.layers.{k}.adapter_layer.ko." for k in range(5)), "decoder."),
}


def finetune(demo, out: Path, *overrides: str, base: Path | str) -> subprocess.CompletedProcess:
    return run(
        "recipes/finetune.py", "--config-name", "finetune_ko_demo", f"base_model={base}",
        f"data.dir={demo.work}/data/demo", f"exp_manager.exp_dir={out}", *overrides,
    )  # fmt: skip


def weights(path: Path) -> dict:
    from ko_asr.models.weights import open_weights

    with open_weights(path) as state:
        return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def syllables(demo, tmp_path_factory) -> Path:
    from ko_asr.data.manifest import read_manifest
    from ko_asr.text.tokenizer import train

    texts = (entry["text"] for entry in read_manifest(demo.manifests["train"]))
    return train("syllable", texts, tmp_path_factory.mktemp("syllable")).parent


@pytest.fixture(scope="module")
def english(tmp_path_factory) -> Path:
    """An 8x FastConformer over English sub-words , random weights, batch statistics other than zero."""
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from ko_asr.models.nemo_file import quiet_nemo
    from ko_asr.text.tokenizer import train

    quiet_nemo()
    from nemo.collections.asr.models import EncDecCTCModelBPE

    folder = tmp_path_factory.mktemp("english")
    train("unigram", ENGLISH, folder / "tokenizer", vocab_size=40)
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        config = compose(
            "fastconformer_ko_demo",
            overrides=["model.encoder.subsampling_factor=8", f"data.tokenizer={folder}/tokenizer"],
        )
    plain = OmegaConf.create(OmegaConf.to_container(config.model, resolve=True))
    plain.train_ds = plain.validation_ds = None
    torch.manual_seed(0)
    model = EncDecCTCModelBPE(cfg=plain)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    model.save_to(str(folder / "english.nemo"))
    return folder / "english.nemo"


def test_every_strategy_from_an_english_model(demo, english, syllables, tmp_path) -> None:
    import torch

    from ko_asr.models.nemo_file import read_config, tokenizer_bytes

    done = finetune(
        demo, tmp_path, f"strategy={','.join(STRATEGIES)}", f"data.tokenizer={syllables}",
        "finetune.last_layers=2", "trainer.max_steps=2", "model.optim.sched.warmup_steps=0",
        f"hydra.sweep.dir={tmp_path}/sweep", "--multirun", base=english,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    before = weights(english)
    for strategy, learning in STRATEGIES.items():
        (model,) = tmp_path.glob(f"*-strategy_{strategy}-*/checkpoints/*.nemo")
        after = weights(model)
        changed = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
        assert all(name.startswith(learning) for name in changed), strategy
        for prefix in learning:
            assert any(name.startswith(prefix) for name in changed), (strategy, prefix)
        assert tokenizer_bytes(model) == (syllables / "tokenizer.model").read_bytes()
        assert "값" in read_config(model)["decoder"]["vocabulary"]
        assert read_config(model)["made_from"]["finetuned"]["strategy"] == strategy
    assert done.stdout.count("output layer: new") == 4
    assert "(100.0%)" in done.stdout


def test_adapters_alone_and_back_in_their_model(demo, tmp_path) -> None:
    import torch

    from ko_asr.models.nemo_file import restore_model

    done = finetune(
        demo, tmp_path, "strategy=adapters", "data.tokenizer=base", "trainer.max_steps=4",
        "finetune.adapter.dim=8", base=demo.model,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "output layer: that of the base model" in done.stdout
    (trained,) = tmp_path.glob("*/checkpoints/*.nemo")
    adapters = trained.with_suffix(".safetensors")
    assert adapters.stat().st_size < trained.stat().st_size / 50
    merged = tmp_path / "merged.nemo"
    done = run("recipes/merge_models.py", demo.model, "--adapters", adapters, "--out", merged)
    assert done.returncode == 0 and "not measured" in done.stdout, done.stderr
    ours, theirs = weights(merged), weights(trained)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert any("adapter_layer" in name and tensor.any() for name, tensor in ours.items())
    models = [restore_model(path) for path in (merged, trained, demo.model)]
    samples, length = (
        torch.randn(1, 32_000, generator=torch.Generator().manual_seed(0)),
        torch.tensor([32_000]),
    )
    with torch.inference_mode():
        heard = [model(input_signal=samples, input_signal_length=length)[0] for model in models]
    assert torch.equal(heard[0], heard[1]) and not torch.equal(heard[0], heard[2])
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(adapters.read_bytes()[:1000])
    for base, file, expected in (
        (merged, adapters, "was trained on another model"),
        (demo.model, cut, "not a whole safetensors file"),
        (demo.model, tmp_path / "none.safetensors", "no adapters at"),
    ):
        said = sentence(
            run("recipes/merge_models.py", base, "--adapters", file, "--out", tmp_path / "x.nemo")
        )
        assert expected in said and not (tmp_path / "x.nemo").exists()


@pytest.mark.slow
def test_frozen_modules_are_in_evaluation_mode_and_the_rest_learns() -> None:
    import torch
    from torch.nn import BatchNorm1d, Dropout, Linear, Sequential

    from ko_asr.training.freezing import frozen_modules

    model = Sequential(
        Sequential(Linear(2, 2), BatchNorm1d(2), Dropout()), Sequential(Linear(2, 1), Dropout())
    )
    model[0].requires_grad_(False)
    assert frozen_modules(model) == [model[0]]
    model[1].requires_grad_(False)
    assert frozen_modules(model) == [model]
    assert frozen_modules(torch.nn.Dropout()) == []


def test_what_cannot_work_is_refused_in_a_sentence(demo, english, tmp_path) -> None:
    cases = [
        ((), english, "than the encoder has frames at 8x", "another base model"),  # 8x and jamo
        (("strategy=last_layers", "finetune.last_layers=6"), demo.model, "has 5 layers", "choose 1 to 5"),
        (("strategy=half",), demo.model, "strategy=half", "last_layers"),
        (("size=l",), demo.model, "size=l", "base model's"),
        (("model.encoder.n_layers=9",), demo.model, "model.encoder.n_layers=9", "base_overrides"),
        ((), tmp_path / "none.nemo", "no model at", "none.nemo"),
        ((), "???", "base_model", ""),
        (("strategy=full,head", "trainer.devices=2", f"hydra.sweep.dir={tmp_path}/sweep", "--multirun"),
         demo.model, "one model after another", "add trainer.devices=1"),
    ]  # fmt: skip
    for overrides, base, *expected in cases:
        tokenizer = f"data.tokenizer={demo.work}/tokenizers/demo"
        said = sentence(finetune(demo, tmp_path / "out", tokenizer, *overrides, base=base))
        assert all(part in said for part in expected), said
    assert not (tmp_path / "out").exists()
