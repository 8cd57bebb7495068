"""What `commands.run` imports once, and each script would import for ten seconds."""

from importlib import import_module

from ko_asr.models.nemo_file import quiet_nemo

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
