"""Fine-tuning: the architecture and weights of any Conformer .nemo, a vocabulary of one's own, and which
part of the model learns.

The model is always a stock EncDecCTCModelBPE, whatever class the base is: its encoder and preprocessor are
taken over, and its CTC output layer as well where the vocabulary stays. What does not learn is frozen as a
whole: no gradient, and evaluation mode, so that batch norm keeps its statistics and dropout is off.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo.collections.asr.models import EncDecCTCModelBPE
from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.models.weights import open_weights
from ko_asr.training.base_model import run_folder, same_vocabulary
from ko_asr.training.freezing import KeepFrozen, freeze

if TYPE_CHECKING:
    from omegaconf import DictConfig


def build(config: "DictConfig", trainer: Any) -> NemoCtc:
    """The model to fit: base weights loaded, adapters added, the rest frozen, the trainable share printed."""
    _refuse_other_base(config)
    model = EncDecCTCModelBPE(cfg=config.model, trainer=trainer)
    kept = load_base(model, Path(config.base_model), same_vocabulary(config))
    if config.finetune.strategy == "adapters":
        _add_adapters(model, config.finetune.adapter)
    learning = freeze(model, config.finetune, head_is_new=not kept)
    trainer.callbacks.append(KeepFrozen(model))
    report(model, learning, kept)
    return model


def _refuse_other_base(config: "DictConfig") -> None:
    """Raise UserError when the run of this name, which NeMo would continue, started from other weights."""
    note = run_folder(config) / "finetuned_from.json"
    base = dict(config.model.made_from.finetuned)
    if note.is_file() and (before := json.loads(note.read_text(encoding="utf-8"))) != base:
        raise UserError(
            f"{note.parent} holds a run that started from {before['model']} ({before['strategy']}, sha256 "
            f"{before['sha256'][:12]}): give this one a name of its own with name=NAME"
        )
    with atomic_write(note) as stream:
        json.dump(base, stream, indent=2)


def load_base(model: NemoCtc, base: Path, keep_head: bool) -> bool:
    """Copy encoder and preprocessor of ``base`` into ``model``; True if its CTC output layer came along.

    Raises UserError when a weight of the encoder is missing or has another shape.
    """
    ours = model.state_dict()
    with open_weights(base) as state:
        # A hybrid model's `decoder.` is the transducer's; its CTC layer has a name of its own.
        head = "ctc_decoder." if any(name.startswith("ctc_decoder.") for name in state) else "decoder."
        taken = {
            name: tensor for name, tensor in state.items() if name.startswith(("encoder.", "preprocessor."))
        }
        layer = {
            f"decoder.{name.removeprefix(head)}": tensor
            for name, tensor in state.items()
            if name.startswith(head)
        }
        fits = {n: t.shape for n, t in layer.items()} == {
            n: t.shape for n, t in ours.items() if n.startswith("decoder.")
        }
        keep_head = keep_head and fits
        taken |= layer if keep_head else {}
        for name in [name for name in ours if name.startswith("encoder.")]:
            if name not in taken or taken[name].shape != ours[name].shape:
                raise UserError(f"{base}: {name} is missing or of another shape: leave base_overrides out")
        model.load_state_dict({name: t for name, t in taken.items() if name in ours}, strict=False)
    return keep_head


def _add_adapters(model: NemoCtc, adapter: "DictConfig") -> None:
    settings = LinearAdapterConfig(
        in_features=model.encoder.d_model, dim=adapter.dim, dropout=adapter.dropout
    )
    model.add_adapter(f"encoder:{adapter.name}", settings)


def report(model: NemoCtc, learning: list[str], kept_head: bool) -> None:
    """Print what learns, and its share of the parameters."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    names = ", ".join(learning) if len(learning) <= 6 else f"{learning[0]} to {learning[-1]}"
    print(f"output layer: {'that of the base model' if kept_head else 'new, for a new vocabulary'}")
    print(f"learning: {trained:,} of {total:,} parameters ({trained / total:.1%}): {names}", flush=True)
