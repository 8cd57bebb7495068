"""Train a Korean FastConformer-CTC model with stock NeMo classes.

    python recipes/train_ctc.py --config-name fastconformer_ko              # KsponSpeech, size l, all GPUs
    python recipes/train_ctc.py --config-name fastconformer_ko size=s model.optim.lr=5e-4
    python recipes/train_ctc.py --config-name fastconformer_ko_demo         # the synthetic demo corpus, CPU
    python recipes/train_ctc.py --config-name fastconformer_ko debug=true   # three utterances, every stage
    python recipes/train_ctc.py --config-name fastconformer_ko profile=true # where the time of a step goes

Every key of the config (conf/*.yaml) can be set as key=value. The same command continues a run that was
interrupted. TensorBoard: tensorboard --logdir experiments
"""

from pathlib import Path

from omegaconf import DictConfig

from ko_asr.training.config import recipe


def on_trained(config: DictConfig, model: Path) -> None:
    """Name the .nemo and the commands that come next."""
    print(f"model: {model}")
    print(f"next: python recipes/evaluate.py --model {model} --manifest {config.data.dir}/eval_clean.jsonl")
    print("      python export/to_triton.py")


@recipe("fastconformer_ko")
def main(config: DictConfig) -> None:
    from ko_asr.training.run import run

    run(config, on_trained)


if __name__ == "__main__":
    main()
