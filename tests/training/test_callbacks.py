"""Each Lightning callback alone, driven with a stand-in for the trainer and no NeMo."""

import json
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from ko_asr.data.manifest import write_manifest
from ko_asr.training.record import RunRecord

pytestmark = pytest.mark.slow  # the callbacks' modules import Lightning
MODULE = torch.nn.Identity()


def trainer(step: int = 7, **more: Any) -> Any:
    optimizer = SimpleNamespace(param_groups=[{"lr": 1e-3}])
    return SimpleNamespace(
        callback_metrics={"val_wer": torch.tensor(0.25), "val_loss": torch.tensor(1.5)},
        current_epoch=2, global_step=step, is_global_zero=True, sanity_checking=False, loggers=[],
        optimizers=[optimizer], should_stop=False, world_size=1, **more,
    )  # fmt: skip


@pytest.mark.parametrize(("use_cer", "rate"), [(True, "CER"), (False, "WER")])
def test_a_validation_is_one_line(capsys: pytest.CaptureFixture, use_cer: bool, rate: str) -> None:
    from ko_asr.training.callbacks import ReportValidation

    ReportValidation(use_cer).on_validation_end(trainer(), MODULE)
    assert capsys.readouterr().out == f"epoch 2, step 7: validation {rate} 25.00%, loss 1.50\n"


class Listener(torch.nn.Module):
    """Hears the same in all audio; notes in which mode it was asked."""

    device = torch.device("cpu")
    preprocessor = SimpleNamespace(_sample_rate=16_000)

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []
        self.decoding = SimpleNamespace(
            ctc_decoder_predictions_tensor=lambda scores, lengths: [SimpleNamespace(text="네")]
        )

    def forward(self, input_signal: torch.Tensor, input_signal_length: torch.Tensor) -> tuple:
        self.modes.append(self.training)
        return input_signal, input_signal_length, None


def test_the_recorder_writes_a_row_and_the_samples_that_are_files(tmp_path: Path) -> None:
    from ko_asr.training.callbacks import Recorder, samples_of

    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    entry = {"audio_filepath": str(tmp_path / "a.wav"), "duration": 1.0, "text": "네."}
    write_manifest(tmp_path / "dev.jsonl", [entry, entry | {"audio_filepath": str(tmp_path / "shard")}])
    record, model = RunRecord(tmp_path), Listener()
    recorder = Recorder(record, samples_of(tmp_path / "dev.jsonl"))
    recorder.on_train_start(trainer(), model)
    for step in (7, 9, 8):  # as of a run that was killed after step 9 and resumed before it
        recorder.on_validation_end(trainer(step), model)
    rows = [json.loads(line) for line in record.curve.read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [7, 8]
    assert (rows[0]["cer"], rows[0]["learning_rate"], "train_loss" in rows[0]) == (0.25, 1e-3, False)
    (sample,) = json.loads(record.samples.read_text(encoding="utf-8").splitlines()[0])["samples"]
    assert (sample["text"], sample["pred_text"]) == ("네.", "네")
    assert not any(model.modes) and model.training
    assert record.has_started and not record.has_finished


class Part(torch.nn.Module):
    """An encoder of two layers with batch norm, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.Module()
        self.encoder.layers = torch.nn.ModuleList(torch.nn.BatchNorm1d(2) for _ in range(2))
        self.encoder.att_context_size_all = [[70, 6], [70, 1]]
        self.decoder = torch.nn.Linear(2, 2)


def test_frozen_layers_evaluate_in_every_step_while_the_encoder_draws_its_look_ahead() -> None:
    from ko_asr.training.freezing import KeepFrozen, freeze

    model = Part()
    strategy = SimpleNamespace(strategy="last_layers", last_layers=1, train_head=True)
    assert freeze(model, strategy, head_is_new=False) == ["encoder.layers.1", "decoder"]
    keep = KeepFrozen(model)
    model.train()
    keep.on_train_batch_start(trainer(), model, None, 0)
    modes = [model.encoder.layers[0].training, model.encoder.layers[1].training, model.decoder.training]
    assert modes == [False, True, True] and model.encoder.training


def test_phases_are_timed_between_warming_up_and_tracing(tmp_path: Path) -> None:
    from ko_asr.training import profile

    timer = profile.PhaseTimer(tmp_path / "trace.json", 16_000)
    batch = (None, torch.tensor([8_000, 16_000]))
    timer.on_train_start(trainer(), MODULE)
    for number in range(profile.WARM_UP + profile.TIMED + profile.TRACED):
        timer.on_train_batch_start(trainer(), MODULE, batch, number)
        timer.on_before_backward(trainer(), MODULE, torch.zeros(()))
        timer.on_after_backward(trainer(), MODULE)
        timer.on_train_batch_end(trainer(), MODULE, {}, batch, number)
    timer.on_train_end(trainer(), MODULE)
    assert {phase: len(times) for phase, times in timer.seconds.items()} == dict.fromkeys(
        profile.PHASES, profile.TIMED
    )
    assert timer.audio_seconds == 1.5 * profile.TIMED
    assert "forward" in timer.operators and (tmp_path / "trace.json").is_file()


def test_overfitting_stops_at_the_first_validation_without_an_error() -> None:
    from ko_asr.training.overfit import Overfitted, StopWhenLearnt

    watch, after = StopWhenLearnt(), trainer(1)
    for step, loss in ((1, 9.0), (2, 4.0), (3, 0.5)):
        after.global_step = step
        watch.on_train_batch_end(after, MODULE, {"loss": torch.tensor(loss)}, None, step)
    watch.on_validation_end(after, MODULE)
    assert watch.found == Overfitted(3, 9.0, 0.5) and not after.should_stop
    after.callback_metrics["val_wer"] = torch.tensor(0.0)
    watch.on_validation_end(after, MODULE)
    assert after.should_stop


def test_debug_finds_a_validation_that_is_no_number_and_notes_what_is_saved() -> None:
    from omegaconf import OmegaConf

    from ko_asr.training.debug import DebugChecks, fingerprints

    watch, after = DebugChecks(OmegaConf.create()), trainer(3)
    state = {"weight": torch.arange(3.0)}
    watch.on_save_checkpoint(after, MODULE, {"state_dict": state})
    watch.on_validation_end(after, MODULE)
    after.callback_metrics["val_loss"] = torch.tensor(float("nan"))
    watch.on_validation_end(after, MODULE)
    assert [check.ok for check in watch.checks] == [True, False]
    assert watch.saved == [fingerprints(state)] == [{"weight": 8.0}]


@pytest.mark.parametrize(
    ("limits", "validated"),
    [
        ({"max_steps": 5}, [3, 5]),
        ({"max_steps": 6}, [3, 6]),
        ({"max_steps": 5, "check_val_every_n_epoch": 3}, [5]),
        ({"max_steps": 5, "val_check_interval": 2, "check_val_every_n_epoch": None}, [2, 4, 5]),
        ({"max_steps": 3, "accumulate_grad_batches": 2}, [2, 3]),
        ({"max_epochs": 2, "val_check_interval": 2}, [2, 5, 6]),
        ({"max_epochs": 2, "limit_train_batches": 2, "check_val_every_n_epoch": 3}, [4]),
        ({"max_steps": 5, "max_time": 2.0}, [3, 5]),
    ],
)
@pytest.mark.parametrize("sized", [True, False])
def test_the_last_step_is_validated_and_may_be_the_best(
    limits: dict, validated: list[int], sized: bool, tmp_path: Path
) -> None:
    """Epochs of three batches, by a real trainer, whose validation loss falls with every step."""
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import ModelCheckpoint
    from nemo.utils.exp_manager import StatelessTimer

    from ko_asr.training.callbacks import ValidateAtEnd

    seen: list[int] = []
    limits = dict(limits)
    seconds = limits.pop("max_time", 0.0)

    class Model(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: torch.Tensor) -> torch.Tensor:
            if seconds and self.global_step == 4:
                time.sleep(seconds)  # so that the time is over exactly at the last step
            return self.layer(batch).sum()

        def validation_step(self, batch: torch.Tensor) -> None:
            seen.append(self.global_step)
            self.log("val_wer", 1.0 / (1 + self.global_step))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self) -> Any:
            return iter(torch.ones(3, 1))

    train = torch.utils.data.DataLoader(torch.ones(3, 1) if sized else Endless())
    best = ModelCheckpoint(tmp_path, monitor="val_wer")
    callbacks: list = [ValidateAtEnd(), best]
    if seconds:
        callbacks.append(StatelessTimer(timedelta(seconds=seconds)))
    trainer = pl.Trainer(
        **limits, callbacks=callbacks, accelerator="cpu", logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Model(), train, torch.utils.data.DataLoader(torch.ones(1, 1)))
    assert seen == validated and trainer.state.finished
    assert torch.load(best.best_model_path, weights_only=True)["global_step"] == validated[-1]
