"""A stranger's model runs no code, whichever command opens it; the sentence does not say how to run it."""

import io
import json
import os
import pickle
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from commands import run, sentence

from ko_asr.errors import UserError
from ko_asr.models.nemo_file import check_nemo_file, read_config
from ko_asr.models.safe_load import HoldsCodeError, check_config, load_checkpoint, load_weights
from ko_asr.models.weights import open_weights

ENCODER = {"_target_": "nemo.collections.asr.modules.ConformerEncoder", "n_layers": 2}


class Harmful:
    """Unpickled, it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


def saved(value: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def with_pickle(weights: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A copy of a file that torch.save wrote, its pickle gone through ``change``."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(weights)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for item in old.infolist():
            data = old.read(item)
            new.writestr(item.filename, change(data) if item.filename.endswith("data.pkl") else data)
    return out.getvalue()


def dotted(module: str, name: str, marker: Path) -> bytes:
    """Pickle code that has eval, found through a dotted name, make ``marker``; protocol 4."""

    def short(text: str) -> bytes:
        return b"\x8c" + bytes([len(text)]) + text.encode()

    code = f"__import__('os').mkdir({str(marker)!r})".encode()
    text = b"X" + struct.pack("<I", len(code)) + code
    return short(module) + short(name) + b"\x93" + short("eval") + b"\x85R" + text + b"\x85R0"


def called(module: str, name: str, marker: Path) -> bytes:
    """Pickle code, protocol 2, that calls a function with the path of ``marker``."""
    path = str(marker).encode()
    return f"c{module}\n{name}\n".encode() + b"X" + struct.pack("<I", len(path)) + path + b"\x85R0"


# Each turns good weights into a file that makes ``marker`` where it is unpickled without care.
WEIGHTS: dict[str, Callable[[bytes, Path], bytes]] = {
    "dotted name": lambda good, marker: with_pickle(
        good,
        lambda data: (
            b"\x80\x04" + dotted("torch._utils", "_rebuild_tensor.__builtins__.get", marker) + data[2:]
        ),
    ),
    "dotted name below an allowed class": lambda good, marker: with_pickle(
        good,
        lambda data: b"\x80\x04" + dotted("omegaconf.base", "os.__builtins__.get", marker) + data[2:],
    ),
    "function": lambda good, marker: with_pickle(
        good, lambda data: b"\x80\x02" + called("posix", "mkdir", marker) + data[2:]
    ),
    "function of torch": lambda good, marker: with_pickle(
        good, lambda data: b"\x80\x02" + called("torch.serialization", "os.mkdir", marker) + data[2:]
    ),
    "object": lambda good, marker: saved({"w": torch.ones(1), "x": Harmful(marker)}),
    "plain pickle": lambda good, marker: pickle.dumps({"state_dict": {"w": Harmful(marker)}}),
}


def refused(said: str) -> None:
    assert "holds code" in said and "must not be loaded" in said
    for advice in ("weights_only", "safe_globals", "PyTorch", "trust_remote"):
        assert advice not in said


@pytest.mark.parametrize("attack", WEIGHTS)
@pytest.mark.parametrize("load", [load_weights, load_checkpoint])
def test_weights_are_read_and_code_is_not_run(attack: str, load: Callable, tmp_path: Path) -> None:
    path, marker = tmp_path / "weights.ckpt", tmp_path / "marker"
    path.write_bytes(WEIGHTS[attack](saved({"w": torch.ones(1)}), marker))
    with pytest.raises(HoldsCodeError) as error:
        load(path)
    refused(str(error.value))
    assert str(path) in str(error.value) and not marker.exists()


def test_each_attack_would_run(tmp_path: Path) -> None:
    """Or the test above could not fail."""
    for number, (name, attack) in enumerate(WEIGHTS.items()):
        if "dotted name below" in name or name == "function of torch":
            continue  # what these names lead to differs by version
        path, marker = tmp_path / f"{number}.ckpt", tmp_path / f"marker{number}"
        path.write_bytes(attack(saved({"w": torch.ones(1)}), marker))
        if path.read_bytes().startswith(b"PK"):
            torch.load(path, weights_only=False)
        else:
            pickle.loads(path.read_bytes())
        assert marker.is_dir(), name


def test_a_scripted_module_is_code_as_well(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "s.ckpt")
    with pytest.raises(HoldsCodeError) as error:
        load_checkpoint(tmp_path / "s.ckpt")
    refused(str(error.value))


def test_a_pickle_of_python_2_is_refused_as_well(tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(pickle.dumps({"w": Harmful(tmp_path / "marker")}, 0))
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "x.ckpt")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"<html>not here</html>", b"\x00" * 500])
def test_a_damaged_file_is_not_said_to_hold_code(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="not a whole checkpoint"):
        load_checkpoint(tmp_path / "x.ckpt")


def test_no_name_of_the_list_has_a_dot_and_each_is_known() -> None:
    from ko_asr.models import safe_load

    for table in (safe_load._CHECKPOINT_CLASSES, safe_load._SECTION_TYPES, safe_load._MODEL_PARTS):
        assert all(name.isidentifier() for names in table.values() for name in names.split())
    assert len(safe_load._checkpoint_globals()) > 40


@pytest.mark.slow
def test_nemo_has_what_the_lists_name() -> None:
    import importlib

    from ko_asr.models import safe_load

    for module, names in safe_load._SECTION_TYPES.items():
        assert all(hasattr(importlib.import_module(module), name) for name in names.split()), module


CONFIGS: dict[str, dict] = {
    "function": {"encoder": {"_target_": "os.system", "command": "true"}},
    "class of the model": {"target": "subprocess.Popen"},
    "Hydra before 1.0": {"encoder": {"cls": "builtins.eval", "params": {}}},
    "through a module": {"encoder": {"_target_": "nemo.collections.asr.modules.conv_asr.os.system"}},
    "a name that looks like a class": {"encoder": {"_target_": "torch.hub.ConformerEncoder"}},
    "a tokenizer that fetches code": {
        "x": [{"_target_": "nemo.collections.common.tokenizers.huggingface.auto_tokenizer.AutoTokenizer"}]
    },
    "a function of NeMo": {
        "encoder": {"_target_": "nemo.collections.asr.parts.utils.manifest_utils.get_ctm_line"}
    },
    "no name": {"encoder": {"_target_": ["os.system"]}},
    "built when resolved": {"encoder": "${oc.create:{_target_:os.system}}"},
    "built, in a key": {"${oc.env:HOME}": 1},
    "resolver named by a value": {"a": "oc.create", "encoder": "${${a}:{_target_:os.system}}"},
    "another model": {"decoding": {"greedy": {"ngram_lm_model": "lm.nemo"}}},
    "another model, in a tree": {"decoding": {"beam": {"boosting_tree": {"model_path": "tree"}}}},
}


@pytest.mark.parametrize("attack", CONFIGS)
def test_a_configuration_names_parts_of_a_model_only(attack: str, tmp_path: Path) -> None:
    path = nemo(tmp_path / "bad.nemo", {"encoder": ENCODER} | CONFIGS[attack])
    for read in (check_nemo_file, read_config):
        with pytest.raises(HoldsCodeError) as error:
            read(path)
        refused(str(error.value))


def test_configurations_of_nemos_own_models_are_read() -> None:
    modules = "nemo.collections.asr.modules"
    check_config(
        {
            "target": "nemo.collections.asr.models.aed_multitask_models.EncDecMultiTaskModel",
            "preprocessor": {
                "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
                "x": "${sample_rate}",
            },
            "encoder": {"_target_": f"{modules}.conformer_encoder.ConformerEncoderAdapter"},
            "joint": {"cls": f"{modules}.RNNTJoint", "params": {}},
            "transf_decoder": {"_target_": f"{modules}.transformer.get_nemo_transformer"},
            "transf_encoder": {"_target_": f"{modules}.transformer.transformer_encoders.TransformerEncoder"},
            "head": {"_target_": "nemo.collections.asr.parts.submodules.token_classifier.TokenClassifier"},
            "adapters": {"a": {"_target_": "nemo.collections.common.parts.adapter_modules.LinearAdapter"}},
            "tokenizer": {"model_path": "nemo:abc_tokenizer.model", "type": "bpe"},
            "decoder": {"vocabulary": ["▁", "$", "{", ":", "target"]},
            "decoding": {"greedy": {"ngram_lm_model": None, "boosting_tree": {"model_path": None}}},
            "made_from": {"finetuned": {"model": "base.nemo"}},
        },
        "x.nemo",
    )


def nemo(path: Path, config: dict, more: list[tarfile.TarInfo] | None = None, weights: bytes = b"") -> Path:
    """A .nemo with a configuration, weights and further members without content."""
    with tarfile.open(path, "w:") as archive:
        for member in more or []:
            archive.addfile(member)
        for name, content in {
            "model_config.yaml": yaml.safe_dump(config).encode(),
            WEIGHTS_NAME: weights,
        }.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


WEIGHTS_NAME = "model_weights.ckpt"


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "outside",
    [
        member("../../outside"),
        member("/tmp/outside"),
        member("./a/../../outside"),
        member("./link", tarfile.SYMTYPE, "/etc/passwd"),
        member("./link", tarfile.LNKTYPE, "./model_config.yaml"),
        member("./pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.type.decode()} {info.name}",
)
def test_an_archive_that_leaves_its_folder_is_refused(outside: tarfile.TarInfo, tmp_path: Path) -> None:
    path = nemo(tmp_path / "bad.nemo", {"encoder": ENCODER}, [outside], saved({"w": torch.ones(1)}))
    for read in (check_nemo_file, read_config, lambda path: open_weights(path).__enter__()):
        with pytest.raises(UserError, match="must not be loaded"):
            read(path)


# ---- every command ---------------------------------------------------------------------------------------


def rewritten(source: Path, out: Path, change: Callable[[str, bytes], bytes]) -> Path:
    """A copy of a .nemo whose files went through ``change(name, bytes)``."""
    with tarfile.open(source) as old, tarfile.open(out, "w:") as new:
        for info in old.getmembers():
            content = change(Path(info.name).name, old.extractfile(info).read()) if info.isfile() else b""
            info.size = len(content)
            new.addfile(info, io.BytesIO(content))
    return out


def fetches_code(config: bytes, marker: Path, folder: Path) -> bytes:
    """A configuration for which stock NeMo imports the Python file of a tokenizer, as from a model hub."""
    folder.mkdir(exist_ok=True)
    code = f"import os\nos.makedirs({str(marker)!r})\nfrom transformers import PreTrainedTokenizer as Tok\n"
    (folder / "evil.py").write_text(code, encoding="utf-8")
    about = {"auto_map": {"AutoTokenizer": ["evil.Tok", None]}, "tokenizer_class": "Tok"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    name = "nemo.collections.common.tokenizers.huggingface.auto_tokenizer.AutoTokenizer"
    content = yaml.safe_load(config)
    content["spec_augment"] = {
        "_target_": name, "pretrained_model_name": str(folder), "trust_remote_code": True,
    }  # fmt: skip
    return yaml.safe_dump(content).encode()


@pytest.fixture(scope="module")
def hostile(demo, tmp_path_factory) -> dict[str, Path]:
    """What makes the folder ``marker``: a .nemo by its weights, one by its configuration, a checkpoint."""
    folder = tmp_path_factory.mktemp("hostile")
    marker, checkpoint = folder / "marker", min(demo.model.parent.glob("*.ckpt"))
    attack = WEIGHTS["dotted name"]
    weights = rewritten(
        demo.model,
        folder / "weights.nemo",
        lambda name, data: attack(data, marker) if name == WEIGHTS_NAME else data,
    )
    config = rewritten(
        demo.model,
        folder / "config.nemo",
        lambda name, data: (
            fetches_code(data, marker, folder / "hub") if name == "model_config.yaml" else data
        ),
    )
    (folder / "last.ckpt").write_bytes(attack(checkpoint.read_bytes(), marker))
    return {"weights": weights, "config": config, "checkpoint": folder / "last.ckpt", "marker": marker}


def command_lines(demo, bad: Path, out: Path) -> dict[str, tuple]:
    """Every command that opens a .nemo, given ``bad``."""
    dev, wav = demo.manifests["dev"], demo.work / "data/demo_corpus/held_out/held_out.wav"
    training = (f"data.dir={demo.work}/data/demo", f"data.tokenizer={demo.work}/tokenizers/demo")
    tuning = ("--config-name", "finetune_ko_demo", *training, f"exp_manager.exp_dir={out}")
    return {
        "average": ("recipes/average_checkpoints.py", bad, demo.model, "--out", out / "a.nemo"),
        "average, template": (
            "recipes/average_checkpoints.py", *demo.model.parent.glob("*.ckpt"), "--template", bad,
            "--out", out / "a.nemo",
        ),
        "merge": ("recipes/merge_models.py", demo.model, bad, "--out", out / "m.nemo"),
        "model card": ("recipes/model_card.py", "--model", bad, "--out", out / "card.md"),
        "evaluate": ("recipes/evaluate.py", "--model", bad, "--manifest", dev, "--limit", "1", "--out", out),
        "transcribe": ("recipes/transcribe.py", wav, "--model", bad),
        "stream": ("recipes/stream.py", wav, "--model", bad),
        "export": ("export/to_triton.py", "--model", bad, "--repository", out / "triton"),
        "finetune": ("recipes/finetune.py", *tuning, f"base_model={bad}", "trainer.max_steps=1"),
        "train": (
            "recipes/train_ctc.py", "--config-name", "fastconformer_ko_demo", *training, "trainer.devices=1",
            f"exp_manager.exp_dir={out}", f"init_from_nemo_model={bad}", "trainer.max_steps=1",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("attack", ["weights", "config"])
@pytest.mark.parametrize(
    "name",
    [
        "average", "average, template", "merge", "model card", "evaluate", "transcribe", "stream", "export",
        "finetune", "train",
    ],
)  # fmt: skip
def test_no_command_runs_what_a_model_holds(demo, hostile, name: str, attack: str, tmp_path: Path) -> None:
    done = run(*command_lines(demo, hostile[attack], tmp_path)[name])
    assert done.returncode == 2 and not hostile["marker"].exists()
    said = [line for line in done.stderr.splitlines() if not line.startswith("loading ")]
    assert len(said) == 1, done.stderr
    refused(said[0])


def test_a_language_model_is_trained_without_opening_the_weights(demo, hostile, tmp_path: Path) -> None:
    text = demo.manifests["dev"]
    line = ("recipes/train_lm.py", "--manifest", text, "--out", tmp_path / "lm", "--model")
    refused(sentence(run(*line, hostile["config"])))
    run(*line, hostile["weights"])
    assert not hostile["marker"].exists()


@pytest.mark.parametrize("key", ["+init_from_ptl_ckpt", "resumed"])
def test_training_runs_no_checkpoint(demo, hostile, key: str, tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    more = f"{key}={hostile['checkpoint']}"
    if key == "resumed":
        shutil.copy(hostile["checkpoint"], folder / "run--val_wer=0.1-epoch=1-last.ckpt")
        more = "advised_batch=0"
    done = run(
        "recipes/train_ctc.py", "--config-name", "fastconformer_ko_demo", f"data.dir={demo.work}/data/demo",
        f"data.tokenizer={demo.work}/tokenizers/demo", "trainer.devices=1", "trainer.max_steps=1", "name=run",
        f"exp_manager.exp_dir={tmp_path}", more,
    )  # fmt: skip
    assert done.returncode == 2 and not hostile["marker"].exists()
    refused(done.stderr.strip().splitlines()[-1])
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_lightning_itself_reads_a_checkpoint_by_the_same_door(hostile) -> None:
    from ko_asr.training.checkpoints import AtomicCheckpointIO

    with pytest.raises(HoldsCodeError):
        AtomicCheckpointIO().load_checkpoint(hostile["checkpoint"])
    assert not hostile["marker"].exists()


def test_a_checkpoint_of_ours_is_read_whole(demo) -> None:
    path = min(demo.model.parent.glob("*.ckpt"))
    ours, theirs = load_checkpoint(path), torch.load(path, map_location="cpu", weights_only=False)
    assert ours.keys() == theirs.keys()
    assert ours["hyper_parameters"]["cfg"] == theirs["hyper_parameters"]["cfg"]
    for name in ("state_dict", "optimizer_states"):
        assert saved(ours[name]) == saved(theirs[name])
    assert str(ours["loops"]) == str(theirs["loops"]) and str(ours["callbacks"]) == str(theirs["callbacks"])


def test_the_second_of_two_configurations_is_seen(demo, hostile, monkeypatch, tmp_path: Path) -> None:
    """A tar may hold two files of a name: this project reads the first, and what is unpacked is the last."""
    from ko_asr.models.nemo_file import restore_model

    both = tmp_path / "both.nemo"
    with (
        tarfile.open(demo.model) as good,
        tarfile.open(hostile["config"]) as bad,
        tarfile.open(both, "w") as out,
    ):
        for archive in (good, bad):
            for info in archive.getmembers():
                out.addfile(info, archive.extractfile(info) if info.isfile() else None)
    # A variable by which torch runs code where a library does not say what it wants.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for path in (both, hostile["weights"]):
        with pytest.raises(HoldsCodeError):
            restore_model(path)
    assert not hostile["marker"].exists()


def test_adapters_name_parts_of_a_model_only(demo, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from ko_asr.provenance import sha256

    header = {
        "format": "ko_asr adapters 1", "base": demo.model.name, "base_sha256": sha256(demo.model),
        "files": "[]", "config": json.dumps({"encoder": {"_target_": "os.system"}}),
    }  # fmt: skip
    for change, expected in (
        ({}, "holds code"),
        ({"config": "{}", "files": '["../x"]'}, "must not be loaded"),
    ):
        save_file({"w": torch.ones(1)}, tmp_path / "bad.safetensors", header | change)
        line = ("recipes/merge_models.py", demo.model, "--adapters", tmp_path / "bad.safetensors")
        said = sentence(run(*line, "--out", tmp_path / "out.nemo"))
        assert expected in said and not (tmp_path / "out.nemo").exists()
