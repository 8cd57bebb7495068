"""Adapters apart from their model: one small file, and the model again from it and the base.

NeMo's own format pickles an OmegaConf object, which torch >= 2.6 refuses to read. Here it is safetensors: the
adapters' tensors, the output layer where it was trained, tokenizer files where they are new, and in the
header the model's config and the SHA-256 of the base model.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import yaml

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.models.nemo_file import (
    check_members,
    check_nemo_file,
    open_archive,
    read_config,
    tokenizer_bytes,
)
from ko_asr.models.safe_load import check_config
from ko_asr.models.weights import WEIGHTS, open_weights
from ko_asr.provenance import sha256

_FORMAT = "ko_asr adapters 1"
_FILE = "file:"  # prefix of tensors that hold the bytes of a file


def save_adapters(model: Path, base: Path, out: Path) -> int:
    """Write what ``model`` (a .nemo) learnt beside its ``base`` to ``out``; the number of weights in it."""
    import numpy as np
    import torch
    from safetensors.torch import save

    config = read_config(model)
    new_vocabulary = tokenizer_bytes(model) != tokenizer_bytes(base)
    with open_weights(model) as state, open_weights(base) as before:
        learnt = {
            name: tensor.clone()
            for name, tensor in state.items()
            if name not in before or not torch.equal(tensor, before[name])
        }
    weights = sum(tensor.numel() for tensor in learnt.values())
    files = _artifacts(model)
    if new_vocabulary:
        for name, content in files.items():
            learnt[_FILE + name] = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
    header = {
        "format": _FORMAT,
        "base": base.name,
        "base_sha256": sha256(base),
        "files": json.dumps(list(files)),
        "config": json.dumps(config, ensure_ascii=False),
    }
    with atomic_write(out, "wb") as stream:
        stream.write(save(learnt, header))
    return weights


def _artifacts(model: Path) -> dict[str, bytes]:
    """Files of a .nemo beside config and weights, by their member name."""
    found = {}
    with open_archive(model) as archive:
        for member in archive.getmembers():
            known = Path(member.name).name in ("model_config.yaml", WEIGHTS)
            if not known and (stream := archive.extractfile(member)):
                found[member.name] = stream.read()
    return found


def _read(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"no adapters at {path}: recipes/finetune.py strategy=adapters writes them")
    try:
        with safe_open(path, "pt") as archive:
            header = archive.metadata() or {}
            # What safe_open gives has keys() but is no mapping to iterate over.
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"{path} is not a whole safetensors file: copy it again") from error
    if header.get("format") != _FORMAT:
        raise UserError(f"{path} holds no adapters of this project: recipes/finetune.py writes them")
    check_config(json.loads(header["config"]), path)
    check_members(map(tarfile.TarInfo, json.loads(header["files"])), path)
    return header, tensors


def _original(files: dict[str, bytes], name: str) -> bytes:
    """The base's file that ``name`` is a copy of: NeMo puts another random prefix before each."""
    suffix = name.split("_", 1)[-1]
    return next(content for known, content in files.items() if known.split("_", 1)[-1] == suffix)


def merge_adapters(base: Path, adapters: Path, out: Path) -> None:
    """Write the .nemo of ``base`` with ``adapters`` inside; stock NeMo restores it.

    UserError when the adapters were trained on another model.
    """
    import torch

    check_nemo_file(base)
    header, tensors = _read(adapters)
    if sha256(base) != header["base_sha256"]:
        raise UserError(
            f"{adapters} was trained on another model than {base}: give {header['base']} with sha256 "
            f"{header['base_sha256'][:12]}"
        )
    originals = _artifacts(base)
    files = {}
    for name in json.loads(header["files"]):
        stored = tensors.pop(_FILE + name, None)
        files[name] = _original(originals, name) if stored is None else stored.numpy().tobytes()
    head_is_new = any(name.startswith("decoder.") for name in tensors)
    with open_weights(base) as state:
        ours = ("encoder.", "preprocessor.") if head_is_new else ("encoder.", "preprocessor.", "decoder.")
        merged = {name: tensor for name, tensor in state.items() if name.startswith(ours)} | tensors
        config = yaml.safe_dump(json.loads(header["config"]), allow_unicode=True, sort_keys=False)
        buffer = io.BytesIO()
        torch.save(merged, buffer)
    _write(out, files | {"./model_config.yaml": config.encode(), f"./{WEIGHTS}": buffer.getvalue()})


def _write(out: Path, members: dict[str, bytes]) -> None:
    with atomic_write(out, "wb") as stream, tarfile.open(fileobj=stream, mode="w:") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
