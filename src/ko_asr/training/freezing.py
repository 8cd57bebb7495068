"""The part of a model that fine-tuning leaves as it is: no gradient, and evaluation mode.

In evaluation mode batch norm keeps its statistics, and dropout is off.
"""

from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from ko_asr.models.nemo_ctc import NemoCtc

if TYPE_CHECKING:
    from omegaconf import DictConfig


def freeze(model: NemoCtc, finetune: "DictConfig", head_is_new: bool) -> list[str]:
    """Leave gradients to what the strategy trains; the names of those modules."""
    if finetune.strategy == "full":
        return ["everything"]
    learning: dict[str, Any] = {}
    if finetune.strategy == "adapters":
        suffix = f".adapter_layer.{finetune.adapter.name}"
        learning = {name: module for name, module in model.named_modules() if name.endswith(suffix)}
    if finetune.strategy == "last_layers":
        layers = list(enumerate(model.encoder.layers))[-finetune.last_layers :]
        learning = {f"encoder.layers.{number}": layer for number, layer in layers}
    if finetune.train_head or head_is_new:
        learning["decoder"] = model.decoder
    model.requires_grad_(False)
    for module in learning.values():
        module.requires_grad_(True)
    return list(learning)


def frozen_modules(model: NemoCtc | torch.nn.Module) -> list[NemoCtc | torch.nn.Module]:
    """The outermost modules that have parameters, none of which learns."""
    parameters = list(model.parameters())
    if not parameters:
        return []
    if not any(parameter.requires_grad for parameter in parameters):
        return [model]
    return [found for child in model.children() for found in frozen_modules(child)]


class KeepFrozen(pl.Callback):
    """Puts frozen modules into evaluation mode before each step: validation and resuming end that mode."""

    def __init__(self, model: NemoCtc) -> None:
        self.frozen = frozen_modules(model)
        # A cache-aware encoder draws its look-ahead only while it says that it trains.
        has_look_aheads = len(getattr(model.encoder, "att_context_size_all", ())) > 1
        self.drawing = [model.encoder] if has_look_aheads else []

    def on_train_batch_start(self, *_arguments: Any) -> None:
        for module in self.frozen:
            module.eval()
        for encoder in self.drawing:
            encoder.training = True
