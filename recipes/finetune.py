"""Fine-tune any FastConformer .nemo on a Korean manifest: whole, in part, or with adapters.

    python recipes/finetune.py base_model=X.nemo strategy=full
    python recipes/finetune.py base_model=X.nemo strategy=adapters data.tokenizer=base
    python recipes/finetune.py --config-name finetune_ko_demo base_model=X.nemo strategy=last_layers \\
        finetune.last_layers=2

Strategies: full, head (output layer only), last_layers (output layer and the upper layers of the encoder),
adapters. data.tokenizer is a tokenizer folder, or base to keep the vocabulary and output layer of the base
model. Everything else is as in recipes/train_ctc.py: every key of the config can be set as key=value, and
the same command continues a run that was interrupted.
"""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from ko_asr.errors import UserError
from ko_asr.training.config import recipe

_ARCHITECTURE = ("size=", "model.encoder.", "model.preprocessor.", "model.sample_rate")


def refuse_architecture(overrides: list[str]) -> None:
    """Raise UserError for overrides that would be lost: the base model decides these."""
    for override in overrides:
        if override.lstrip("+~").startswith(_ARCHITECTURE):
            raise UserError(
                f"{override}: the architecture is the base model's; leave it out, or change what its weights "
                "allow with +base_overrides.encoder.KEY=VALUE"
            )


def write_adapters(config: DictConfig, model: Path) -> None:
    """Write the adapters of ``model`` beside it, on the first rank only."""
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    from ko_asr.models.adapters import save_adapters

    if getattr(rank_zero_only, "rank", 0):
        return
    out = model.with_suffix(".safetensors")
    weights = save_adapters(model, Path(config.base_model), out)
    megabytes, whole = out.stat().st_size / 1e6, model.stat().st_size / 1e6
    print(f"adapters: {out} ({weights:,} weights, {megabytes:.2f} MB; the model has {whole:.1f} MB)")
    print(f"          python recipes/merge_models.py {config.base_model} --adapters {out} --out MERGED.nemo")


def on_trained(config: DictConfig, model: Path) -> None:
    """Name the .nemo and the command that comes next; write the adapters where they are what learnt."""
    print(f"model: {model}")
    if config.finetune.strategy == "adapters":
        write_adapters(config, model)
    print(f"next: python recipes/evaluate.py --model {model} --manifest {config.data.dir}/eval_clean.jsonl")


@recipe("finetune_ko")
def main(config: DictConfig) -> None:
    refuse_architecture(list(HydraConfig.get().overrides.task))
    from ko_asr.training.base_model import adopt_base
    from ko_asr.training.run import run

    adopt_base(config)
    run(config, on_trained)


if __name__ == "__main__":
    main()
