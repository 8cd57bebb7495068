"""recipes/average_checkpoints.py and recipes/merge_models.py: arithmetic, file format, refusals."""

import json
import os
import pickle
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import run, sentence
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.data.manifest import read_manifest, write_manifest
from ko_asr.errors import UserError
from ko_asr.models.nemo_file import read_config
from ko_asr.models.weights import check_same_model, combine, distance, open_weights, write_nemo

FLOATS = st.floats(-1e3, 1e3, width=32)


def state_of(path: Path) -> dict[str, torch.Tensor]:
    with open_weights(path) as state:
        return {name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def sisters(demo, tmp_path_factory) -> list[Path]:
    """The demo model and two that differ a little from it, as .nemo."""
    folder, state = tmp_path_factory.mktemp("sisters"), state_of(demo.model)
    found = [demo.model]
    for seed in (1, 2):
        torch.manual_seed(seed)
        moved = {
            name: tensor + 0.02 * tensor.std() * torch.randn_like(tensor)
            if tensor.is_floating_point() and tensor.dim() > 1
            else tensor
            for name, tensor in state.items()
        }
        write_nemo(demo.model, folder / f"sister{seed}.nemo", moved, {})
        found.append(folder / f"sister{seed}.nemo")
    return found


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=5), st.data())
@settings(max_examples=60, deadline=None)
def test_the_mean_is_numpys_and_of_equals_the_same_bits(rows, data) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 10), min_size=len(rows), max_size=len(rows)))
    states = [{"w": torch.tensor(row), "n": torch.tensor(k)} for k, row in enumerate(rows)]
    mean = combine(states, weights)
    assert mean["w"].numpy() == pytest.approx(np.average(rows, axis=0, weights=weights), rel=1e-5, abs=1e-4)
    assert mean["n"] == len(rows) - 1 and mean["n"].dtype == torch.int64
    assert torch.equal(combine([states[0]] * len(rows), weights)["w"], states[0]["w"])


def test_a_checkpoint_with_nan_is_named() -> None:
    states = [{"w": torch.ones(2)}, {"w": torch.tensor([1.0, float("nan")])}]
    with pytest.raises(UserError, match="w holds NaN or infinity"):
        combine(states, [1, 1])


def test_checkpoints_of_a_run_are_averaged(demo, tmp_path) -> None:
    checkpoints = sorted(demo.model.parent.glob("*.ckpt"))
    assert len(checkpoints) == 2
    out = tmp_path / "averaged.nemo"
    done = run("recipes/average_checkpoints.py", *checkpoints, "--out", out)
    assert done.returncode == 0 and "CER: not measured" in done.stdout, done.stderr
    # NeMo's objects in them are read for real here, by torch itself.
    loaded = [torch.load(path, weights_only=False)["state_dict"] for path in checkpoints]
    mean = state_of(out)
    assert mean.keys() == loaded[0].keys()
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, (loaded[0][name] + loaded[1][name]) / 2, rtol=1e-6, atol=1e-7), name
        else:
            assert tensor == max(loaded[0][name], loaded[1][name])
    assert read_config(out)["made_from"] == {"averaged": [path.name for path in checkpoints]}
    assert "only" in sentence(run("recipes/average_checkpoints.py", demo.model.parent, "--out", out))


def test_models_are_merged_at_the_weight_with_the_lowest_cer(demo, sisters, tmp_path) -> None:
    few = tmp_path / "few.jsonl"
    write_manifest(few, list(read_manifest(demo.manifests["eval_clean"]))[:30])
    out = tmp_path / "merged.nemo"
    done = run(
        "recipes/merge_models.py", *sisters[:2], "--sweep", "0,0.25,1", "--manifest", few, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {
        float(w): float(r) for w, r in re.findall(r"^  (\S+) x .*: ([\d.]+)% \(", done.stdout, re.MULTILINE)
    }
    assert list(found) == [0.0, 0.25, 1.0]
    merged = read_config(out)["made_from"]["merged"]
    best = merged[0]["weight"]
    assert found[best] == min(found.values()) and merged[1]["weight"] == pytest.approx(1 - best)
    states = [state_of(path) for path in (sisters[0], sisters[1], out)]
    name = "encoder.layers.0.feed_forward1.linear1.weight"
    expected = best * states[0][name].double() + (1 - best) * states[1][name].double()
    assert torch.equal(states[2][name], expected.float())
    # what the sweep measured at weight one is what evaluate.py says of the first model
    evaluated = run(
        "recipes/evaluate.py", "--model", sisters[0], "--manifest", few, "--out", tmp_path / "scores"
    )
    assert evaluated.returncode == 0, evaluated.stderr
    scores = json.loads((tmp_path / "scores" / "scores.json").read_text(encoding="utf-8"))
    assert 100 * scores["metrics"]["cer"]["rate"] == pytest.approx(found[1.0], abs=0.006)


def test_three_models_by_weight_and_far_models_with_a_warning(demo, sisters, tmp_path) -> None:
    out = tmp_path / "three.nemo"
    done = run("recipes/merge_models.py", *sisters, "--weights", "2", "1", "1", "--out", out)
    assert done.returncode == 0 and "warning" not in done.stdout, done.stderr
    shares = [source["weight"] for source in read_config(out)["made_from"]["merged"]]
    assert shares == [0.5, 0.25, 0.25]
    states = [state_of(path) for path in sisters]
    assert 0.0 < distance(states[0], states[1]) < 0.1
    unrelated = {name: torch.randn_like(t) if t.dim() > 1 else t for name, t in states[0].items()}
    write_nemo(demo.model, tmp_path / "far.nemo", unrelated, {})
    done = run("recipes/merge_models.py", demo.model, tmp_path / "far.nemo", "--out", out)
    assert done.returncode == 0 and "do not look fine-tuned from one ancestor" in done.stdout


def rewritten(source: Path, out: Path, change) -> Path:
    """A copy of a .nemo whose members went through ``change(name, bytes)``."""
    import io

    with tarfile.open(source) as old, tarfile.open(out, "w:") as new:
        for member in old.getmembers():
            content = change(member.name, old.extractfile(member).read()) if member.isfile() else b""
            member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return out


def test_models_that_do_not_belong_together_are_refused(demo, tmp_path) -> None:
    other = rewritten(
        demo.model, tmp_path / "other.nemo", lambda n, b: b + b"\0" if n.endswith("tokenizer.model") else b
    )
    said = sentence(run("recipes/merge_models.py", demo.model, other, "--out", tmp_path / "x.nemo"))
    assert "different vocabularies" in said and not (tmp_path / "x.nemo").exists()
    heads = rewritten(
        demo.model, tmp_path / "heads.nemo", lambda n, b: b.replace(b"n_heads: 4", b"n_heads: 8")
    )
    with pytest.raises(UserError, match=r"different architectures \(encoder.n_heads is 4 and 8\)"):
        check_same_model(demo.model, heads)
    dropout = rewritten(
        demo.model, tmp_path / "dropout.nemo", lambda n, b: b.replace(b"dropout: 0.0", b"dropout: 0.2")
    )
    check_same_model(demo.model, dropout)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm-was-done",)


def test_broken_and_harmful_files_end_in_a_sentence(demo, tmp_path, monkeypatch) -> None:
    checkpoint = min(demo.model.parent.glob("*.ckpt"))
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:100_000])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"state_dict": {"w": Harmful()}}))
    torch.save({"epoch": 1}, tmp_path / "none.ckpt")
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "other.ckpt")
    torch.save({"state_dict": {"w": torch.ones(2), "x": Harmful()}}, tmp_path / "harmful.ckpt")
    monkeypatch.chdir(tmp_path)
    for name, expected in (
        ("cut.ckpt", "not a whole checkpoint"),
        ("empty.ckpt", "not a whole checkpoint"),
        ("old.ckpt", "holds code"),
        ("harmful.ckpt", "holds code"),
        ("none.ckpt", "holds no weights"),
        ("missing.ckpt", "no checkpoint at"),
    ):
        with pytest.raises(UserError, match=expected), open_weights(tmp_path / name):
            pass
    assert not (tmp_path / "harm-was-done").exists()
    command = (
        "recipes/average_checkpoints.py",
        checkpoint,
        tmp_path / "other.ckpt",
        "--template",
        demo.model,
    )
    assert "of another model" in sentence(run(*command, "--out", tmp_path / "x.nemo"))
    assert not (tmp_path / "x.nemo").exists()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="only Python 3.11 comes without tarfile's filters")
def test_models_open_where_tarfile_has_no_filters(demo) -> None:
    """Debian 12's Python 3.11.2: NeMo extracts with ``filter="data"``, which came with 3.11.4."""
    code = """
import sys, tarfile
later = tarfile.TarFile.extract
def extract(self, member, path="", set_attrs=True, *, numeric_owner=False):
    later(self, member, path, set_attrs, numeric_owner=numeric_owner)
tarfile.TarFile.extract = extract
vars(tarfile).pop("data_filter", None)
from ko_asr.models.nemo_file import restore_model
print(type(restore_model(sys.argv[1])).__name__, sys.modules["tarfile"] is tarfile)
"""
    command = [sys.executable, "-c", code, str(demo.model)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "EncDecCTCModelBPE True"
