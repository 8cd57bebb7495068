"""The training commands: environment and checks first, then the imports that take seconds, then the work."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ko_asr.models.nemo_file import quiet_nemo
from ko_asr.training.checks import check_run
from ko_asr.training.environment import set_environment

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ko_asr.training.overfit import Overfitted
    from ko_asr.training.train import MakeModel


def run(config: "DictConfig", on_trained: Callable[["DictConfig", Path], None]) -> None:
    """Train the model of ``config``, and call ``on_trained(config, .nemo)`` when the training is complete.

    With ``debug`` or ``profile`` in the config do what they say instead. UserError for a config that cannot
    be trained.
    """
    set_environment(config)
    if config.debug or config.profile:
        _try_out(config)
    else:
        _train(config, on_trained)


def run_overfit(config: "DictConfig") -> "Overfitted":
    """Overfit one batch; UserError when the model of ``config`` cannot."""
    set_environment(config)
    quiet_nemo()
    from ko_asr.training.overfit import overfit

    return overfit(config)


def _train(config: "DictConfig", on_trained: Callable[["DictConfig", Path], None]) -> None:
    statistics = check_run(config)
    quiet_nemo()
    from ko_asr.training.train import train

    if model := train(config, statistics, _model_maker(config)):
        on_trained(config, model)


def _try_out(config: "DictConfig") -> None:
    """Debug or profile a few steps, of which no model is kept."""
    quiet_nemo()
    from ko_asr.training.debug import debug
    from ko_asr.training.profile import profile

    (debug if config.debug else profile)(config, _model_maker(config))


def _model_maker(config: "DictConfig") -> "MakeModel":
    """The function that makes the model: fine-tuning's where the config has a base model."""
    if "base_model" in config:
        from ko_asr.training.finetune import build

        return build
    from ko_asr.training.train import new_model

    return new_model
