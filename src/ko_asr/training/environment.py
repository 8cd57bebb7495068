"""Environment variables of a training process: they are read once, while torch and its libraries load."""

import os
from typing import TYPE_CHECKING

from ko_asr.models.safe_load import weights_only_always

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Threads that spin at a barrier cost nothing on an idle machine, but beside any other load a step was
# measured to take 8 s instead of 0.3 s. Where they sleep at once, a step takes 428 ms instead of 294 on an
# idle one; microseconds of spinning have neither fault.
_CPU = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
# PyTorch's profiler (profile=true) logs its start and stop, which are no news.
_ALWAYS = {"KINETO_LOG_LEVEL": "99"}


def set_environment(config: "DictConfig") -> None:
    """Set what training wants and nobody has set already; to be called before torch is imported."""
    for name, value in (_ALWAYS | (_CPU if config.trainer.accelerator == "cpu" else {})).items():
        os.environ.setdefault(name, value)
    weights_only_always()
