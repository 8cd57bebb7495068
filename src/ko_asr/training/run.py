"""What one training command does: the run itself, three utterances through every stage, or a profile."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ko_asr.training.debug import debug
from ko_asr.training.profile import profile
from ko_asr.training.train import new_model, train

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(config: "DictConfig", make_model: Callable[["DictConfig", Any], Any] = new_model) -> Path | None:
    """Train the model that ``make_model(config, trainer)`` gives and return the path of its .nemo.

    With ``debug`` or ``profile`` in the config do what they say instead and return None, as when
    ``max_time_per_run`` ends the training. UserError as `train`.
    """
    if config.debug:
        debug(config, make_model)
        return None
    if config.profile:
        profile(config, make_model)
        return None
    return train(config, make_model)
