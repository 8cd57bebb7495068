"""What `commands.run` imports once for slow tests: NeMo, which takes each script ten seconds."""

from importlib import import_module

from ko_asr.models.nemo_file import quiet_nemo

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
