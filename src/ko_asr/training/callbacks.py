"""Lightning callbacks of every training run."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def report_callback(config: "DictConfig"):
    """A Lightning callback that prints one line a validation, because a log file shows no progress bar."""
    import lightning.pytorch as pl

    class ReportValidation(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            metrics = trainer.callback_metrics
            # The metric is named val_wer whatever it counts; with use_cer it is the character error rate.
            rate = "CER" if config.model.get("use_cer") else "WER"
            if "val_wer" in metrics and not trainer.sanity_checking:
                print(
                    f"epoch {trainer.current_epoch}, step {trainer.global_step}: validation {rate} "
                    f"{float(metrics['val_wer']):.2%}, loss {float(metrics['val_loss']):.2f}",
                    flush=True,
                )

    return ReportValidation()
