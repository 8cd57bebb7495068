"""Fine-tuning: the architecture and weights of any Conformer .nemo, a vocabulary of one's own, and which
part of the model learns.

The model is always a stock EncDecCTCModelBPE, whatever class the base is: its encoder and preprocessor are
taken over, and its CTC output layer as well where the vocabulary stays. What does not learn is frozen as a
whole: no gradient, and evaluation mode, so that batch norm keeps its statistics and dropout is off.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sentencepiece

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.models.nemo_file import read_config, tokenizer_bytes
from ko_asr.models.weights import open_weights
from ko_asr.provenance import sha256
from ko_asr.text import tokenizer

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

STRATEGIES = ("full", "head", "last_layers", "adapters")
ADAPTER_ENCODER = "nemo.collections.asr.modules.conformer_encoder.ConformerEncoderAdapter"
_KEEP_TOKENIZER = "base"


def adopt_base(config: "DictConfig") -> None:
    """Give ``config`` the architecture of its ``base_model``, in place, and check what can be checked.

    Encoder, preprocessor and sample rate become the base's (with ``base_overrides``), so that the
    feasibility check counts with the base's subsampling. Raises UserError when there is no such model, when
    it has no Conformer encoder, or when strategy and tokenizer do not go with it.
    """
    from omegaconf import OmegaConf, open_dict

    if OmegaConf.is_missing(config, "base_model"):
        raise UserError("say which model to start from: base_model=X.nemo")
    base = read_config(config.base_model)
    encoder = base.get("encoder") or {}
    if "ConformerEncoder" not in str(encoder.get("_target_")):
        raise UserError(
            f"{config.base_model} has no Conformer encoder but {encoder.get('_target_', 'none')}: "
            "start from a (Fast)Conformer model"
        )
    _check_strategy(config.finetune, int(encoder["n_layers"]), base.get("adapters") or {})
    with open_dict(config):
        config.model.sample_rate = base["preprocessor"]["sample_rate"]
        for part in ("preprocessor", "encoder"):
            changes = OmegaConf.create(config.base_overrides).get(part) or {}
            config.model[part] = OmegaConf.merge(base[part], changes)
        config.model.encoder.setdefault("causal_downsampling", False)
        if "adapters" in base:
            config.model.adapters = base["adapters"]
        if config.finetune.strategy == "adapters":
            config.model.encoder._target_ = ADAPTER_ENCODER
        if config.data.tokenizer == _KEEP_TOKENIZER:
            config.data.tokenizer = str(_unpack_tokenizer(config))
        config.model.made_from = {
            "finetuned": {
                "model": Path(config.base_model).name,
                "sha256": sha256(config.base_model),
                "strategy": config.finetune.strategy,
            }
        }


def _check_strategy(finetune: "DictConfig", layers: int, adapters: dict) -> None:
    if finetune.strategy not in STRATEGIES:
        raise UserError(f"no strategy '{finetune.strategy}': choose one of {', '.join(STRATEGIES)}")
    if finetune.strategy == "last_layers" and not 1 <= finetune.last_layers <= layers:
        raise UserError(
            f"finetune.last_layers={finetune.last_layers}, but the base model's encoder has {layers} layers: "
            f"choose 1 to {layers}"
        )
    if finetune.strategy == "adapters" and finetune.adapter.name in adapters:
        raise UserError(
            f"the base model has adapters '{finetune.adapter.name}' already: name the new ones with "
            "finetune.adapter.name=NAME"
        )


def run_folder(config: "DictConfig") -> Path:
    """Where the run writes: ``experiments/NAME``."""
    return Path(config.exp_manager.exp_dir or "nemo_experiments") / config.name


def _unpack_tokenizer(config: "DictConfig") -> Path:
    """The base model's own SentencePiece model as a tokenizer folder of the run."""
    content = tokenizer_bytes(config.base_model)
    if content is None:
        raise UserError(
            f"{config.base_model} holds no SentencePiece tokenizer: build one with tokenizers/build.py and "
            "give its folder as data.tokenizer"
        )
    folder = run_folder(config) / "base_tokenizer"
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    with atomic_write(folder / "vocab.txt") as stream:
        stream.writelines(f"{processor.id_to_piece(i)}\n" for i in range(processor.get_piece_size()))
    with atomic_write(folder / "tokenizer.model", "wb") as stream:
        stream.write(content)
    return folder


def same_vocabulary(config: "DictConfig") -> bool:
    """Whether the run's tokenizer is the base model's, piece by piece."""
    content = tokenizer_bytes(config.base_model)
    if content is None:
        return False
    pieces = [
        [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
        for processor in (
            tokenizer.load(config.model.tokenizer.dir),
            sentencepiece.SentencePieceProcessor(model_proto=content),
        )
    ]
    return pieces[0] == pieces[1]


def build(config: "DictConfig", trainer: Any) -> Any:
    """The model to fit: base weights loaded, adapters added, the rest frozen, the trainable share printed."""
    from nemo.collections.asr.models import EncDecCTCModelBPE

    _refuse_other_base(config)
    model = EncDecCTCModelBPE(cfg=config.model, trainer=trainer)
    kept = load_base(model, Path(config.base_model), same_vocabulary(config))
    if config.finetune.strategy == "adapters":
        _add_adapters(model, config.finetune.adapter)
    learning = freeze(model, config.finetune, head_is_new=not kept)
    trainer.callbacks.append(_keep_frozen(model))
    report(model, learning, kept)
    return model


def _refuse_other_base(config: "DictConfig") -> None:
    """NeMo continues a run by its name alone: UserError when that run started from other weights."""
    note = run_folder(config) / "finetuned_from.json"
    base = dict(config.model.made_from.finetuned)
    if note.is_file() and (before := json.loads(note.read_text(encoding="utf-8"))) != base:
        raise UserError(
            f"{note.parent} holds a run that started from {before['model']} ({before['strategy']}, sha256 "
            f"{before['sha256'][:12]}): give this one a name of its own with name=NAME"
        )
    with atomic_write(note) as stream:
        json.dump(base, stream, indent=2)


def load_base(model: Any, base: Path, keep_head: bool) -> bool:
    """Copy encoder and preprocessor of ``base`` into ``model``; whether its CTC output layer came along.

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


def _add_adapters(model: Any, adapter: "DictConfig") -> None:
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

    settings = LinearAdapterConfig(
        in_features=model.encoder.d_model, dim=adapter.dim, dropout=adapter.dropout
    )
    model.add_adapter(f"encoder:{adapter.name}", settings)


def freeze(model: Any, finetune: "DictConfig", head_is_new: bool) -> list[str]:
    """Leave gradients to what the strategy trains; the names of those modules."""
    if finetune.strategy == "full":
        return ["everything"]
    learning = {}
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


def frozen_modules(model: "torch.nn.Module") -> list["torch.nn.Module"]:
    """The outermost modules that have parameters, none of which learns."""
    parameters = list(model.parameters())
    if not parameters:
        return []
    if not any(parameter.requires_grad for parameter in parameters):
        return [model]
    return [found for child in model.children() for found in frozen_modules(child)]


def _keep_frozen(model: Any) -> Any:
    """A Lightning callback: frozen modules are in evaluation mode in every training step.

    Before each step, because validation and resuming put modules back into training mode.
    """
    import lightning.pytorch as pl

    frozen = frozen_modules(model)
    # A cache-aware encoder draws its look-ahead only while it says that it trains.
    many_contexts = len(getattr(model.encoder, "att_context_size_all", ())) > 1

    class KeepFrozen(pl.Callback):
        def on_train_batch_start(self, *_arguments: Any) -> None:
            for module in frozen:
                module.eval()
            if many_contexts:
                model.encoder.training = True

    return KeepFrozen()


def report(model: Any, learning: list[str], kept_head: bool) -> None:
    """Print what learns, and its share of the parameters."""
    total = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    names = ", ".join(learning) if len(learning) <= 6 else f"{learning[0]} to {learning[-1]}"
    print(f"output layer: {'that of the base model' if kept_head else 'new, for a new vocabulary'}")
    print(f"learning: {trained:,} of {total:,} parameters ({trained / total:.1%}): {names}", flush=True)
