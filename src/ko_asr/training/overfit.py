"""recipes/overfit_batch.py: a model that cannot overfit one batch will not learn a corpus either."""

import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
from omegaconf import open_dict

from ko_asr.errors import UserError
from ko_asr.models.nemo_file import restore_model
from ko_asr.models.transcribe import transcribe
from ko_asr.training.small_run import choose, run_small, small_config
from ko_asr.training.train import MakeModel, new_model

if TYPE_CHECKING:
    from omegaconf import DictConfig

UTTERANCES, STEPS = 4, 400
CHECK = 10  # steps between two validations
_DROPOUTS = (
    "dropout",
    "dropout_pre_encoder",
    "dropout_emb",
    "dropout_att",
    "stochastic_depth_drop_prob",
)


class Overfitted(NamedTuple):
    """Steps that were needed, and the loss a token at the first and at the last of them."""

    steps: int
    first: float
    last: float


def overfit(config: "DictConfig", make_model: MakeModel = new_model) -> Overfitted:
    """Overfit one batch, print its transcripts, and raise UserError when one of them is not learnt.

    Without augmentation, dropout or weight decay a model that is connected rightly spells out four
    utterances after some hundred steps; the .nemo it leaves must transcribe them without an error.
    """
    watch = StopWhenLearnt()
    with tempfile.TemporaryDirectory(prefix="ko_asr_overfit_") as name:
        batch = shortest(config, UTTERANCES)
        small = small_config(config, Path(name), batch, batch, STEPS, epoch=CHECK)
        _nothing_random(small)
        small.exp_manager.create_checkpoint_callback = False  # the .nemo is written from memory at the end
        nemo = run_small(small, make_model, [watch])
        texts = transcribe(restore_model(nemo), batch)
    _check_learnt([entry["text"] for entry in batch], texts, watch.found)
    return watch.found


def _check_learnt(references: list[str], texts: list[str], found: Overfitted) -> None:
    for reference, text in zip(references, texts, strict=True):
        print(f"  {'learnt' if text == reference else 'NOT   '} {reference} -> {text}", flush=True)
    wrong = sum(text != reference for reference, text in zip(references, texts, strict=True))
    if wrong:
        raise UserError(
            f"after {found.steps} steps {wrong} of {len(texts)} utterances of one batch are not learnt (loss "
            f"{found.first:.2f} -> {found.last:.2f} a token): audio and text may not belong together, or "
            "model.optim.lr is far off; do not start the long run"
        )


def shortest(config: "DictConfig", count: int) -> list[dict]:
    """The shortest utterances of a choice of the training manifest's: quick to learn, all different."""
    spread = choose(config, config.model.train_ds.manifest_filepath, 8 * count)
    different = {entry["text"]: entry for entry in reversed(spread)}
    return sorted(different.values(), key=lambda entry: entry["duration"])[:count]


def _nothing_random(config: "DictConfig") -> None:
    """Take out all that keeps a model from overfitting."""
    model = config.model
    with open_dict(config):
        for key in _DROPOUTS:
            model.encoder[key] = 0.0
        model.preprocessor.dither = 0.0
        model.spec_augment = None
        model.train_ds.update(
            perturb_speed=False, noise_path=None, rir_enabled=False, concatenate_samples=False
        )
        model.optim.weight_decay = 0.0


class StopWhenLearnt(pl.Callback):
    """Ends training at the first validation without an error; ``found`` is how far it has come."""

    def __init__(self) -> None:
        self.found = Overfitted(0, math.nan, math.nan)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps, loss = trainer.global_step, float(outputs["loss"])
        self.found = Overfitted(steps, loss if steps == 1 else self.found.first, loss)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        trainer.should_stop = float(trainer.callback_metrics["val_wer"]) == 0.0
