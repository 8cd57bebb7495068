"""Train a Korean FastConformer-CTC model with stock NeMo classes.

    python recipes/train_ctc.py --config-name fastconformer_ko              # KsponSpeech, size l, all GPUs
    python recipes/train_ctc.py --config-name fastconformer_ko size=s model.optim.lr=5e-4
    python recipes/train_ctc.py --config-name fastconformer_ko_demo         # the synthetic demo corpus, CPU

Every key of the config (conf/*.yaml) can be set as key=value. The same command continues a run that was
interrupted. TensorBoard: tensorboard --logdir experiments
"""

import hydra
from omegaconf import DictConfig

from ko_asr.errors import exit_on_error


@hydra.main(version_base="1.3", config_path="../conf", config_name="fastconformer_ko")
def main(config: DictConfig) -> None:
    from ko_asr.training import train

    with exit_on_error():
        model = train(config)
    print(f"model: {model}")
    print(f"next: python recipes/evaluate.py --model {model} --manifest {config.data.dir}/eval_clean.jsonl")
    print("      python export/to_triton.py")


if __name__ == "__main__":
    main()
