"""Lightning callbacks that say and record what every training run does."""

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import TensorBoardLogger

from ko_asr.audio.read import read_segment
from ko_asr.data.manifest import read_manifest
from ko_asr.models.nemo_ctc import NemoCtc
from ko_asr.training.record import RunRecord

SAMPLES = 5  # dev utterances shown at each validation


class ReportValidation(pl.Callback):
    """Prints one line a validation, because a log file shows no progress bar.

    NeMo's metric is named val_wer whatever it counts; with ``use_cer`` it is the character error rate.
    """

    def __init__(self, use_cer: bool) -> None:
        self.rate = "CER" if use_cer else "WER"

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        if "val_wer" in metrics and not trainer.sanity_checking:
            print(
                f"epoch {trainer.current_epoch}, step {trainer.global_step}: validation {self.rate} "
                f"{float(metrics['val_wer']):.2%}, loss {float(metrics['val_loss']):.2f}",
                flush=True,
            )


class ValidateAtEnd(pl.Callback):
    """Validates after the last step, wherever in an epoch it is, so that its weights may be the best ones.

    Lightning validates by the epoch or every so many steps; what comes after the last of them would be
    trained for nothing.
    """

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not _is_last_step(trainer):
            return
        # What Lightning asks once the batch is done; a loop that stops early would ask the same.
        trainer.val_check_batch = 1
        epochs = trainer.check_val_every_n_epoch
        if epochs is not None and (trainer.current_epoch + 1) % epochs:
            trainer.check_val_every_n_epoch = None
        # max_time_per_run would end the run before this validation, and nothing goes on after the last step.
        # A new list, because Lightning goes through the old one. mypy does not find where it is set.
        kept = [each for each in trainer.callbacks if not isinstance(each, Timer)]  # type: ignore[attr-defined]
        trainer.callbacks = kept  # type: ignore[attr-defined]


def _is_last_step(trainer: pl.Trainer) -> bool:
    """True when the optimizer step that comes is the last one of ``max_steps`` or ``max_epochs``."""
    if trainer.max_steps != -1 and trainer.global_step + 1 >= trainer.max_steps:
        return True
    epochs = trainer.max_epochs
    is_last_epoch = epochs is not None and epochs != -1 and trainer.current_epoch + 1 >= epochs
    return is_last_epoch and trainer.is_last_batch


class Recorder(pl.Callback):
    """Writes the curve and the sample predictions of a run at every validation."""

    def __init__(self, record: RunRecord, entries: Sequence[dict]) -> None:
        """``entries`` are the dev utterances to transcribe, see `samples_of`."""
        self.record, self.entries = record, entries
        self.started = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.record.has_started = True

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.record.has_finished = True

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.sanity_checking or "val_wer" not in trainer.callback_metrics:
            return
        # On every rank: the encoder agrees with its peers on the longest input, and would wait for them.
        samples = pairs(self.entries, transcribe_samples(module, self.entries))
        if trainer.is_global_zero:
            self.record.append(self.record.curve, self._curve_row(trainer))
            self.record.append(self.record.samples, {"step": trainer.global_step, "samples": samples})
            _log_samples(trainer, samples)

    def _curve_row(self, trainer: pl.Trainer) -> dict[str, Any]:
        metrics = trainer.callback_metrics
        row: dict[str, Any] = {"step": trainer.global_step, "epoch": trainer.current_epoch}
        row["cer"] = float(metrics["val_wer"])
        row |= {name: float(metrics[name]) for name in ("val_loss", "train_loss") if name in metrics}
        row["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        return row | {"seconds": round(time.monotonic() - self.started, 1)}


def _log_samples(trainer: pl.Trainer, samples: Sequence[dict[str, str]]) -> None:
    """Show the samples in TensorBoard."""
    text = "\n\n---\n\n".join(f"{sample['text']}\n\n{sample['pred_text']}" for sample in samples)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("samples", text, trainer.global_step)


def samples_of(manifest: str | Path) -> list[dict]:
    """The first entries of a dev manifest, without those whose audio is no file but in a shard."""
    entries = islice(read_manifest(manifest), SAMPLES)
    return [entry for entry in entries if Path(entry["audio_filepath"]).is_file()]


def pairs(entries: Sequence[dict], texts: Sequence[str]) -> list[dict[str, str]]:
    """File, reference and hypothesis of each sample, keys as in evaluation's predictions."""
    return [
        {"audio_filepath": entry["audio_filepath"], "text": entry["text"], "pred_text": text}
        for entry, text in zip(entries, texts, strict=True)
    ]


def transcribe_samples(model: NemoCtc, entries: Sequence[dict]) -> list[str]:
    """Greedy text of each entry. NeMo's transcribe() would unfreeze what fine-tuning has frozen."""
    was_training = model.training
    model.eval()
    texts = []
    with torch.inference_mode():
        for entry in entries:
            samples = torch.from_numpy(read_segment(entry, model.preprocessor._sample_rate))[None]
            log_probs, lengths, _ = model(
                input_signal=samples.to(model.device),
                input_signal_length=torch.tensor([samples.shape[1]], device=model.device),
            )
            best = model.decoding.ctc_decoder_predictions_tensor(log_probs, lengths)
            texts.append(best[0].text)
    model.train(was_training)
    return texts
