"""Overfit one batch of four utterances: a model that cannot will not learn a corpus either.

    python recipes/overfit_batch.py --config-name fastconformer_ko_demo     # a minute on a CPU
    python recipes/overfit_batch.py --config-name fastconformer_ko size=s model.optim.lr=2e-3

Takes the configs and overrides of recipes/train_ctc.py, without augmentation and dropout. Prints each
transcript; ends with exit status 2 when one is not learnt. Writes nothing.
"""

from omegaconf import DictConfig

from ko_asr.training.config import recipe


@recipe("fastconformer_ko")
def main(config: DictConfig) -> None:
    from ko_asr.training.run import run_overfit

    steps, first, last = run_overfit(config)
    print(f"overfitted after {steps} steps: loss {first:.2f} -> {last:.2f} a token")
    print("next: python recipes/train_ctc.py with the same --config-name and overrides")


if __name__ == "__main__":
    main()
