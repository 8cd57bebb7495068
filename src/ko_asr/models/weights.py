"""Model weights as files: read from .nemo and Lightning checkpoints, averaged or merged, written as .nemo.

Nothing of a file is executed: see `safe_load`. Files are mapped, not loaded, and combined tensor by tensor,
so memory holds the result and what the system caches, however many models go in.

Averaging the last or best checkpoints of one run: Polyak averaging over snapshots, as in Vaswani et al. 2017,
section 6.1. Merging models that were fine-tuned from one ancestor: "model soups", Wortsman et al. 2022.
"""

import contextlib
import io
import re
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.models.nemo_file import open_archive, read_config, tokenizer_bytes
from ko_asr.models.safe_load import load_checkpoint, load_weights

if TYPE_CHECKING:
    import torch

    State = dict[str, torch.Tensor]

WEIGHTS = "model_weights.ckpt"
# Settings that change what the same weights compute. Dropout, dither and the like act in training only.
_COMPUTING = ("preprocessor", "encoder", "decoder")
_TRAINING_ONLY = re.compile(r"dropout|dither|stochastic_depth|att_context_probs|_drop")


@contextlib.contextmanager
def open_weights(path: Path) -> Iterator["State"]:
    """The state dict of a .nemo or a Lightning .ckpt, mapped from disk while the block runs.

    A .nemo's weights are unpacked to a temporary folder first. Raises UserError for a file that is neither,
    is damaged or holds code.
    """
    with tempfile.TemporaryDirectory(prefix="ko_asr_weights_") as folder:
        if path.suffix == ".nemo":
            loaded = load_weights(_unpack_weights(path, Path(folder)), path)
        else:
            if not path.is_file():
                raise UserError(f"no checkpoint at {path}: give .ckpt or .nemo files, or a folder of them")
            loaded = load_checkpoint(path, mapped=True).get("state_dict", {})
        if not isinstance(loaded, dict) or not loaded:
            raise UserError(f"{path} holds no weights: give what recipes/train_ctc.py wrote")
        yield loaded


def _unpack_weights(path: Path, folder: Path) -> Path:
    with open_archive(path) as archive:
        for member in archive.getmembers():
            if Path(member.name).name == WEIGHTS and (stream := archive.extractfile(member)):
                with (folder / WEIGHTS).open("wb") as out:
                    while block := stream.read(1 << 22):
                        out.write(block)
                return folder / WEIGHTS
    raise UserError(f"{path} has no {WEIGHTS}; sharded checkpoints are not read: save the model as one .nemo")


def first_difference(state: "State", other: "State") -> str | None:
    """The first name or shape that tells two state dicts apart, in words; None where they match."""
    for name in (*state, *other):
        if name not in state or name not in other:
            return f"{name} is in one of them only"
        if state[name].shape != other[name].shape:
            return f"{name} is {list(state[name].shape)} in one and {list(other[name].shape)} in the other"
    return None


def check_same_model(first: Path, other: Path) -> None:
    """Raise UserError with the first difference when two .nemo differ in vocabulary or computation."""
    ours, theirs = read_config(first), read_config(other)
    vocabularies = [config.get("decoder", {}).get("vocabulary") for config in (ours, theirs)]
    if tokenizer_bytes(first) != tokenizer_bytes(other) or vocabularies[0] != vocabularies[1]:
        raise UserError(
            f"{first} and {other} have different vocabularies: merge models fine-tuned with one tokenizer"
        )
    for part in _COMPUTING:
        for key in sorted({*ours.get(part, {}), *theirs.get(part, {})}):
            values = ours.get(part, {}).get(key), theirs.get(part, {}).get(key)
            if values[0] != values[1] and not _TRAINING_ONLY.search(key):
                raise UserError(
                    f"{first} and {other} have different architectures ({part}.{key} is {values[0]} and "
                    f"{values[1]}): merge models fine-tuned from one ancestor"
                )


def combine(states: Sequence["State"], weights: Sequence[float]) -> "State":
    """The weighted mean of equal-shaped state dicts; the weights are scaled to sum to one.

    Sums are taken in float64 and stored in the first model's type: equal models give themselves back,
    bit for bit. Batch norm's running mean and variance are averaged like weights; integer buffers, which
    only count batches, take the largest. Raises UserError when a tensor is not finite.
    """
    total = sum(weights)
    return {name: _mean([state[name] for state in states], weights, total, name) for name in states[0]}


def _mean(
    tensors: Sequence["torch.Tensor"], weights: Sequence[float], total: float, name: str
) -> "torch.Tensor":
    import torch

    if not tensors[0].is_floating_point():
        return torch.stack(list(tensors)).amax(0)
    result = torch.zeros(tensors[0].shape, dtype=torch.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        result.add_(tensor.to(torch.float64), alpha=weight / total)
    if not torch.isfinite(result).all():
        raise UserError(f"{name} holds NaN or infinity in one of the inputs: leave that checkpoint out")
    return result.to(tensors[0].dtype)


def distance(state: "State", other: "State") -> float:
    """Norm of the difference over the mean norm of the two, over all floating-point tensors.

    Fine-tuned sisters are well below 1; two unrelated random models are at the square root of two.
    """
    between = ours = theirs = 0.0
    for name, tensor in state.items():
        if tensor.is_floating_point():
            a, b = tensor.double(), other[name].double()
            between += float((a - b).square().sum())
            ours += float(a.square().sum())
            theirs += float(b.square().sum())
    norms = (ours**0.5 + theirs**0.5) / 2
    return between**0.5 / norms if norms else 0.0


def write_nemo(template: Path, out: Path, state: "State", made_from: dict[str, Any]) -> None:
    """Write ``out``: ``template`` with the weights of ``state`` and ``made_from`` noted in its config.

    NeMo ignores the note (key ``made_from``); recipes/model_card.py prints it.
    """
    import torch

    config = read_config(template)
    config["made_from"] = (config.get("made_from") or {}) | made_from
    with tempfile.TemporaryDirectory(prefix="ko_asr_weights_") as folder, open_archive(template) as source:
        torch.save(state, Path(folder) / WEIGHTS)
        text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False).encode()
        with atomic_write(out, "wb") as stream, tarfile.open(fileobj=stream, mode="w:") as archive:
            for member in source.getmembers():
                name = Path(member.name).name
                if name == WEIGHTS:
                    archive.add(Path(folder) / WEIGHTS, arcname=member.name)
                elif name == "model_config.yaml":
                    member.size = len(text)
                    archive.addfile(member, io.BytesIO(text))
                else:
                    archive.addfile(member, source.extractfile(member) if member.isfile() else None)


def checkpoints_in(folder: Path, best: int | None = None) -> list[Path]:
    """The top-k checkpoints of a training run, best first; NeMo's copy of the last step is left out.

    With ``best``, that many of the lowest ``val_wer`` that NeMo wrote into the names.
    """
    found = [path for path in sorted(folder.glob("*.ckpt")) if not path.stem.endswith("-last")]
    if not found:
        raise UserError(f"no .ckpt in {folder}: give a run's checkpoints folder, or the files themselves")

    def monitored(path: Path) -> float:
        match = re.search(r"val_wer=(\d+\.?\d*)", path.stem)
        return float(match.group(1)) if match else float("inf")

    return sorted(found, key=monitored)[:best]
