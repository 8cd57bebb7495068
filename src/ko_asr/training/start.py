"""The start of a run: a checkpoint of its own, the weights of another model, or nothing.

All three are checked before the first step. NeMo itself loads what fits, or ends in a page of shapes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_asr.errors import UserError
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.models.nemo_file import check_nemo_file
from ko_asr.models.safe_load import HoldsCodeError, load_checkpoint
from ko_asr.models.weights import open_weights

if TYPE_CHECKING:
    from omegaconf import DictConfig


def sources(config: "DictConfig") -> Iterator[tuple[Path, list[str], list[str]]]:
    """The models that a run starts from, with the parts of names to take and to leave out.

    NeMo's keys: ``init_from_nemo_model`` and ``init_from_ptl_ckpt``, each a path, or sections with ``path``,
    ``include`` and ``exclude``.
    """
    for key in ("init_from_nemo_model", "init_from_ptl_ckpt"):
        given = config.get(key)
        for part in [{"path": given}] if isinstance(given, str) else (given or {}).values():
            yield Path(part["path"]), list(part.get("include", [""])), list(part.get("exclude", []))


def check_sources(config: "DictConfig") -> None:
    """Raise UserError when a model to start from is missing or no .nemo; needs no NeMo."""
    if config.get("init_from_pretrained_model"):
        raise UserError(
            "init_from_pretrained_model is not read here: download the .nemo and give its path as "
            "init_from_nemo_model"
        )
    for path, _, _ in sources(config):
        if path.suffix != ".ckpt":
            check_nemo_file(path)
        elif not path.is_file():
            raise UserError(f"no checkpoint at {path}: give a .ckpt or .nemo file")


def load_sources(model: NemoCtc, config: "DictConfig") -> None:
    """Load the weights that the config starts from; UserError when their shapes do not fit."""
    for path, include, exclude in sources(config):
        try:
            with open_weights(path) as state:
                model.load_part_of_state_dict(state, include, exclude)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise UserError(
                f"{path} does not fit this config ({_first_mismatch(str(error))}): choose its size and "
                "subsampling, or leave such weights out with init_from_nemo_model.NAME.exclude"
            ) from error


def _first_mismatch(message: str) -> str:
    """The first parameter of torch's list of mismatches."""
    line = next(line for line in message.splitlines() if "size mismatch" in line)
    return line.strip().removeprefix("size mismatch for ").split(": copying")[0] + " has another shape"


def check_checkpoint(path: str | Path | None, model: NemoCtc) -> None:
    """Raise UserError when the checkpoint that a run would resume from is damaged or of another model.

    ``path`` may be None: nothing to resume. The vocabulary is compared piece by piece, because two
    tokenizers of one size would resume without a word and decode to nonsense.
    """
    if path is None:
        return
    way_out = "choose another name= for a new run, or the tokenizer and size of the old one"
    try:
        checkpoint = load_checkpoint(path, mapped=True)
        theirs = checkpoint["hyper_parameters"]["cfg"]["decoder"]["vocabulary"]
        weights = checkpoint["state_dict"]
    except (OSError, HoldsCodeError):
        raise
    except Exception as error:  # a cut file, or another program's
        kind = type(error.__cause__ or error).__name__
        raise UserError(
            f"the checkpoint {path} cannot be read ({kind}): delete it to resume from an earlier one, or "
            "choose another name="
        ) from error
    ours = list(model.decoder.vocabulary)
    if list(theirs) != ours:
        raise UserError(
            f"the checkpoint {path} has another vocabulary ({len(theirs)} tokens, this tokenizer has "
            f"{len(ours)}{_first_difference(list(theirs), ours)}): {way_out}"
        )
    if difference := _shape_difference(weights, model.state_dict()):
        raise UserError(f"the checkpoint {path} is of another model ({difference}): {way_out}")


def _first_difference(theirs: list[str], ours: list[str]) -> str:
    """The first token that two vocabularies of one size disagree on."""
    if len(theirs) != len(ours):
        return ""
    k = next(k for k, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
    return f", but token {k} is '{theirs[k]}' there and '{ours[k]}' here"


def _shape_difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first parameter that one side lacks or that has two shapes; empty where there is none."""
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours:
            return f"{name} is only in {'it' if name in theirs else 'this config'}"
        if theirs[name].shape != ours[name].shape:
            return f"{name} is {list(theirs[name].shape)} there and {list(ours[name].shape)} here"
    return ""
