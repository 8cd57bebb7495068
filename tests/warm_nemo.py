"""What `commands.run` imports once for slow tests: NeMo, which takes each script ten seconds."""

import sys
from importlib import import_module
from pathlib import Path

from ko_asr.models.nemo_file import quiet_nemo

# Python 3.12 hands on the path of the test that is running.
sys.path[:] = [entry for entry in sys.path if Path(entry).name != "too_slow"]
import_module("warm")
quiet_nemo()
for name in (
    "hydra",
    "lightning.pytorch",
    "nemo.collections.asr.models",
    "nemo.utils.exp_manager",
    "onnx",
    "onnxruntime",
    "onnxscript",
):
    import_module(name)
