"""What `commands.run` imports once, and each script would import for ten seconds."""

from ko_asr.training import quiet_nemo

quiet_nemo()
import hydra  # noqa: E402, F401
import lightning.pytorch  # noqa: E402, F401
import nemo.collections.asr.models  # noqa: E402, F401
import nemo.utils.exp_manager  # noqa: E402, F401
import onnx  # noqa: E402, F401
import onnxruntime  # noqa: E402, F401
import onnxscript  # noqa: E402, F401
