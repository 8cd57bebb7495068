"""The one door for files of models: weights and settings are read, and code in them is never run.

A stranger's model can run code in two ways. Weights are a pickle, and a pickle calls what it names: torch's
restricted unpickler (``weights_only``) looks names up in a list and calls nothing else, and for a Lightning
checkpoint the list here is added. And NeMo imports and calls what ``_target_`` in a model_config.yaml names;
its own list of prefixes lets a tokenizer class through that downloads Python files and runs them.
"""

import importlib
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError, printable

# What a Lightning checkpoint names besides tensors: hyperparameters, which are OmegaConf's objects.
_CHECKPOINT_CLASSES = {
    "builtins": "bool dict float int list str tuple",
    "collections": "defaultdict",
    "omegaconf.base": "ContainerMetadata Metadata UnionNode",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.nodes": "AnyNode BooleanNode BytesNode EnumNode FloatNode IntegerNode PathNode StringNode",
    "pathlib": "PosixPath",
    "typing": "Any Dict List",
}
# The types of sections of those hyperparameters. They are named, never made: a stand-in does.
_NEMO = "nemo.collections.asr.parts."
_SECTION_TYPES = {
    f"{_NEMO}context_biasing.boosting_graph_batched": "BoostingTreeModelConfig PhraseItem",
    f"{_NEMO}submodules.ctc_beam_decoding": (
        "BeamCTCInferConfig FlashlightConfig PyCTCDecodeConfig WfstCTCInferConfig"
    ),
    f"{_NEMO}submodules.ctc_decoding": "CTCBPEDecodingConfig CTCDecodingConfig",
    f"{_NEMO}submodules.ctc_greedy_decoding": "GreedyCTCInferConfig",
    f"{_NEMO}submodules.multitask_beam_decoding": "AEDBeamInferConfig",
    f"{_NEMO}submodules.multitask_decoding": "AEDStreamingDecodingConfig MultiTaskDecodingConfig",
    f"{_NEMO}submodules.multitask_greedy_decoding": "AEDGreedyInferConfig",
    f"{_NEMO}submodules.rnnt_beam_decoding": "BeamRNNTInferConfig",
    f"{_NEMO}submodules.rnnt_decoding": "RNNTBPEDecodingConfig RNNTDecodingConfig",
    f"{_NEMO}submodules.rnnt_greedy_decoding": "GreedyBatchedRNNTInferConfig GreedyRNNTInferConfig",
    f"{_NEMO}utils.asr_confidence_utils": "ConfidenceConfig ConfidenceMethodConfig",
    "nemo.collections.common.parts.adapter_modules": "LinearAdapterConfig",
    "nemo.core.classes.mixins.adapter_mixin_strategies": (
        "ResidualAddAdapterStrategyConfig ReturnResultAdapterStrategyConfig"
    ),
}
# The parts that NeMo's speech recognition models are built of, by package; NeMo names a class by it or by a
# module in it.
_MODEL_PARTS = {
    "nemo.collections.asr.losses": (
        "BCELoss CTCLoss CTCLossForSSL ContrastiveLoss MLMLoss MultiMLMLoss RNNTLossForSSL"
    ),
    "nemo.collections.asr.metrics": "BLEU WER",
    "nemo.collections.asr.models": (
        "EncDecCTCModel EncDecCTCModelBPE EncDecDenoiseMaskedTokenPredModel EncDecHybridRNNTCTCBPEModel "
        "EncDecHybridRNNTCTCBPEModelWithPrompt EncDecHybridRNNTCTCModel EncDecMaskedTokenPredModel "
        "EncDecMultiTaskModel EncDecRNNTBPEModel EncDecRNNTBPEModelWithPrompt EncDecRNNTModel "
        "EncDecTransfModelBPE SpeechEncDecSelfSupervisedModel"
    ),
    "nemo.collections.asr.modules": (
        "AudioToMFCCPreprocessor AudioToMelSpectrogramPreprocessor ConformerEncoder ConformerEncoderAdapter "
        "ConvASRDecoder ConvASRDecoderReconstruction ConvASREncoder ConvASREncoderAdapter "
        "CropOrPadSpectrogramAugmentation HATJoint LSTMDecoder MaskedPatchAugmentation MultiSoftmaxDecoder "
        "RNNEncoder RNNTDecoder RNNTDecoderJointSSL RNNTJoint RandomBlockMasking "
        "RandomProjectionVectorQuantizer SampledRNNTJoint SpectrogramAugmentation StatelessTransducerDecoder"
    ),
    "nemo.collections.asr.modules.transformer": (
        "TransformerDecoder TransformerEncoder get_nemo_transformer"
    ),
    "nemo.collections.asr.parts.submodules": "TokenClassifier",
    "nemo.collections.asr.parts.submodules.adapters": (
        "MHAResidualAddAdapterStrategy MultiHeadAttentionAdapter PositionalEncodingAdapter "
        "RelPositionMultiHeadAttentionAdapter RelPositionalEncodingAdapter "
        "TransformerMultiHeadAttentionAdapter"
    ),
    "nemo.collections.common.losses": "CrossEntropyLoss NLLLoss SmoothedCrossEntropyLoss",
    "nemo.collections.common.parts": "LinearAdapter",
    "nemo.collections.common.tokenizers": "CanaryTokenizer",
    "nemo.core.classes.mixins": "ResidualAddAdapterStrategy ReturnResultAdapterStrategy",
    "torch.optim": "Adam AdamW SGD",
}
_TARGET_KEYS = ("_target_", "target", "cls")  # the last two as NeMo wrote them with Hydra before 1.0
_OTHER_MODELS = (".ngram_lm_model", ".boosting_tree.model_path")  # for these NeMo opens another .nemo
_WHAT_NOW = "and must not be loaded: get the model from somebody whom you trust"


class HoldsCodeError(UserError):
    """The sentence for a file that would run code."""


class _StandIn(dict):
    """Takes the place of a type of NeMo's that a checkpoint names."""


@cache
def _checkpoint_globals() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """(class, full name) of all that a Lightning checkpoint may name besides torch's own."""
    known: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (getattr(importlib.import_module(module), name), f"{module}.{name}")
        for module, names in _CHECKPOINT_CLASSES.items()
        for name in names.split()
    ]
    known += [(_StandIn, f"{m}.{name}") for m, names in _SECTION_TYPES.items() for name in names.split()]
    return known


def load_weights(path: str | Path, shown: str | Path | None = None, device: Any = "cpu") -> dict[str, Any]:
    """The state dict of a .nemo's weights file; on the CPU mapped from disk, so the file must stay.

    UserError, which names ``shown`` (default: ``path``), when the file is damaged or names anything but
    tensors and containers.
    """
    return _load(path, shown or path, device, str(device) == "cpu")


def load_checkpoint(path: str | Path, mapped: bool = False) -> dict[str, Any]:
    """A Lightning checkpoint, on the CPU; ``mapped`` from disk, or in memory.

    UserError when the file is damaged or names anything but what training writes.
    """
    import torch

    with torch.serialization.safe_globals(_checkpoint_globals()):
        return _load(path, path, "cpu", mapped)


def _load(path: str | Path, shown: str | Path, device: Any, mapped: bool) -> dict[str, Any]:
    import torch

    with Path(path).open("rb") as stream:
        head = stream.read(2)
    try:
        mapped = mapped and head == b"PK"  # torch before 1.6 wrote plain pickles
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle's protocol, above the sentence that says it all
            loaded = torch.load(path, map_location=device, mmap=mapped, weights_only=True)
    except Exception as error:  # what a file is built to fail with may be anything
        raise _refusal(shown, head, str(error)) from error
    if not isinstance(loaded, dict):
        raise UserError(f"{shown} holds no weights: give what recipes/train_ctc.py wrote")
    return loaded


def _refusal(shown: str | Path, head: bytes, message: str) -> UserError:
    """Why a file was not loaded. torch's own message goes on to say how to run its code."""
    named = re.search(r"GLOBAL (\S+) |function (.{1,100})|(TorchScript) archives", message)
    # A file of weights that torch.save wrote has no other operand; text or a cut file is no pickle.
    if named or ("Unsupported operand" in message and (head == b"PK" or head[:1] == b"\x80")):
        what = f" ({next(filter(None, named.groups()))})" if named else ""
        return HoldsCodeError(f"{shown} holds code{what} besides weights, {_WHAT_NOW}")
    return UserError(f"{shown} is not a whole checkpoint: leave it out or copy it again")


def weights_only_always() -> None:
    """Let a call of torch.load that does not say so read weights only as well: NeMo makes some."""
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)


def check_config(config: Any, shown: str | Path) -> None:
    """Raise UserError when a model's configuration would have NeMo call, or open, what is no part of a model.

    ``config`` is the plain content of a model_config.yaml; ``shown`` is the file that it is from.
    """
    if found := _foreign(config):
        raise HoldsCodeError(
            f"{shown} holds code: its configuration has {printable(found[:200])}, which is no part of a "
            f"speech recognition model, {_WHAT_NOW}"
        )


def _foreign(node: Any, place: str = "") -> str | None:
    """The first value in ``node`` that is no part of a model; ``place`` is the dotted key of ``node``."""
    key = place.rpartition(".")[2]
    parts: list[tuple[Any, str]] = []
    if isinstance(node, Mapping):
        parts = [(name, "") for name in node]
        parts += [(value, f"{place}.{name}") for name, value in node.items()]
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        parts = [(value, place) for value in node]
    # A resolver (with a colon) can build a section, and the names in it, after this look.
    computed = isinstance(node, str) and "${" in node and ":" in node
    named = key in _TARGET_KEYS and (isinstance(node, str) or key == "_target_") and not _is_part(node)
    if computed or named or (node and place.endswith(_OTHER_MODELS)):
        return f"{place.lstrip('.')}: {node}"
    return next((found for value, where in parts if (found := _foreign(value, where))), None)


def _is_part(name: Any) -> bool:
    """True for the full name of a class in `_MODEL_PARTS`, as its package or a module in it gives it."""
    module, _, last = str(name).rpartition(".")
    packages = (module, module.rpartition(".")[0])
    return any(last in _MODEL_PARTS.get(package, "").split() for package in packages)
