"""The base model of a fine-tuning: its architecture and tokenizer, taken into the config and checked.

None of it needs NeMo, so that what does not go together is refused at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import sentencepiece
from omegaconf import OmegaConf, open_dict

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.models.nemo_file import read_config, tokenizer_bytes
from ko_asr.provenance import sha256
from ko_asr.text import tokenizer

if TYPE_CHECKING:
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
    """The folder that the run writes into: ``experiments/NAME``."""
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
    """True when the run's tokenizer is the base model's, piece by piece."""
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
