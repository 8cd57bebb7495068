"""debug=true: three utterances through every stage of a recipe, and whether everything is connected.

`debug` trains a small copy of the config for a few steps and prints a checklist: data, shapes, loss,
gradients, optimiser, validation, checkpoint, the restored .nemo and its transcripts.
"""

import contextlib
import math
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import lightning.pytorch as pl
import torch

from ko_asr.errors import UserError
from ko_asr.models.nemo_file import restore_model
from ko_asr.models.transcribe import transcribe
from ko_asr.runtime.frames import encoder_frames, mel_frames
from ko_asr.text.tokenizer import load
from ko_asr.training.initial_loss import uniform_loss
from ko_asr.training.readable import Opened, check_audio
from ko_asr.training.small_run import choose, run_small, small_config
from ko_asr.training.train import MakeModel

if TYPE_CHECKING:
    from omegaconf import DictConfig

UTTERANCES, STEPS = 3, 3
# How far from a uniform model's loss a fresh one may start. Its logits scatter, which costs half their
# variance a frame: 0.93 to 1.07 of it was measured for sizes xs to m, jamo at 4x and syllables at 8x.
INITIAL_LOSS = (0.75, 1.5)


class Check(NamedTuple):
    """One line of the checklist; ``advice`` is what to do when it is not ``ok``."""

    name: str
    ok: bool
    found: str
    advice: str = ""

    def __str__(self) -> str:
        return f"  {'ok  ' if self.ok else 'FAIL'} {self.name:<14} {self.found}"


def debug(config: "DictConfig", make_model: MakeModel) -> None:
    """Load, train, validate, checkpoint, restore and transcribe three utterances; print a checklist.

    Raises UserError, after the whole list, for the first item that does not hold.
    """
    with tempfile.TemporaryDirectory(prefix="ko_asr_debug_") as name:
        folder = Path(name)
        opened = check_audio(config)
        train = choose(config, config.model.train_ds.manifest_filepath, UTTERANCES)
        dev = choose(config, config.model.validation_ds.manifest_filepath, UTTERANCES)
        small = small_config(config, folder, train, dev, STEPS, epoch=STEPS)
        watch = DebugChecks(small)
        nemo = run_small(small, make_model, [watch])
        checks = [
            *_data_checks(config, train),
            _audio_check(opened),
            *watch.checks,
            *_saved_checks(nemo, watch.saved, dev),
        ]
        checks.append(_memory_check())
    print(f"debug: {config.name}, {STEPS} steps over {UTTERANCES} utterances")
    print("\n".join(map(str, checks)), flush=True)
    for check in checks:
        if not check.ok:
            raise UserError(f"debug: {check.name}: {check.found}; {check.advice}")
    print("debug: everything holds; next: recipes/overfit_batch.py, profile=true, then the run itself")


def _data_checks(config: "DictConfig", train: list[dict]) -> list[Check]:
    """Paths, and the tokenizer's round trip of the texts."""
    tokenizer = load(config.model.tokenizer.dir)
    texts = [entry["text"] for entry in train]
    tokens = [tokenizer.encode(text) for text in texts]
    changed = [text for text, ids in zip(texts, tokens, strict=True) if tokenizer.decode(ids) != text]
    seconds = ", ".join(f"{entry['duration']:.1f}" for entry in train)
    known = f"{sum(map(len, tokens))} tokens of {tokenizer.get_piece_size()} pieces, '{texts[0]}' -> "
    known += " ".join(tokenizer.id_to_piece(i) for i in tokens[0][:8])
    found = known if not changed else f"'{changed[0]}' does not come back from its tokens"
    advice = "build a tokenizer from this corpus, or prepare the text with the rules of the tokenizer"
    return [
        Check("paths", True, f"{config.model.train_ds.manifest_filepath}, {config.model.tokenizer.dir}"),
        Check("utterances", True, f"{seconds} s"),
        Check("tokens", not changed, found, advice),
    ]


def _audio_check(opened: list[Opened]) -> Check:
    """Every file that was opened; more than ``max_unreadable`` have ended the run before."""
    bad, files = sum(len(each.unreadable) for each in opened), sum(each.opened for each in opened)
    return Check("audio", True, f"{files} utterances opened by header, {bad} cannot be read")


class DebugChecks(pl.Callback):
    """Checks what only the inside of training shows, and notes what is written into its checkpoints.

    ``checks`` are the findings so far, ``saved`` the fingerprints of each checkpoint's weights.
    """

    def __init__(self, config: "DictConfig") -> None:
        self.config = config
        self.checks: list[Check] = []
        self.saved: list[dict[str, float]] = []
        self.expected = math.nan
        self.before: dict[str, float] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 0:
            self.before = fingerprints(module.state_dict())
            self.expected, found = _forward_checks(module, batch, self.config)
            self.checks += found

    def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self.checks.append(_gradient_check(module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == 1:
            self.checks.append(_loss_check(float(outputs["loss"]), self.expected, self.config))
            self.checks.append(_update_check(module, self.before))

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        loss, rate = (float(trainer.callback_metrics[name]) for name in ("val_loss", "val_wer"))
        found = f"loss {loss:.2f}, error rate {rate:.0%}"
        advice = "look at the audio of the validation manifest"
        self.checks.append(Check("validation", math.isfinite(loss), found, advice))

    def on_save_checkpoint(self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict) -> None:
        self.saved.append(fingerprints(checkpoint["state_dict"]))


def fingerprints(state: dict[str, torch.Tensor]) -> dict[str, float]:
    """A number for each tensor that a step of training changes: without copying the model."""
    return {name: float((value.double() ** 2).sum() + value.double().sum()) for name, value in state.items()}


def _forward_checks(module: Any, batch: tuple, config: "DictConfig") -> tuple[float, list[Check]]:
    """(expected initial loss, checks) of the first batch through a model in evaluation mode."""
    signal, lengths, tokens, token_lengths = batch[:4]
    with torch.no_grad(), _evaluating(module):
        mel, mel_lengths = module.preprocessor(input_signal=signal, length=lengths)
        log_probs, frames, _ = module.forward(processed_signal=mel, processed_signal_length=mel_lengths)
        flat = torch.full_like(log_probs, -math.log(log_probs.shape[-1]), dtype=torch.float32)
        measured = float(
            module.loss(log_probs=flat, targets=tokens, input_lengths=frames, target_lengths=token_lengths)
        )
    symbols = log_probs.shape[-1]
    expected = _expected_loss(module, symbols, frames, tokens, token_lengths)
    shapes = " -> ".join(
        f"{name} {list(value.shape)}"
        for name, value in (("audio", signal), ("log-mel", mel), ("log-probabilities", log_probs))
    )
    return expected, [
        _shape_check(shapes, frames.tolist(), lengths.tolist(), config),
        _outputs_check(symbols, module.tokenizer.vocab_size),
        _uniform_check(measured, expected, f"{module.loss.config_reduction} of T ln {symbols}"),
    ]


@contextlib.contextmanager
def _evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Put every part of ``module`` into evaluation mode for a while, and then back: some may be frozen."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    yield
    for part, training in modes.items():
        part.training = training


def _expected_loss(
    module: Any, symbols: int, frames: torch.Tensor, tokens: torch.Tensor, token_lengths: torch.Tensor
) -> float:
    """The loss of a uniform model on a batch, reduced as the model's own loss is."""
    rows = [ids[:n].tolist() for ids, n in zip(tokens, token_lengths, strict=True)]
    losses = [uniform_loss(ids, int(n), symbols) for ids, n in zip(rows, frames, strict=True)]
    # As NeMo's zero_infinity has it: speed perturbation can leave an utterance too few frames.
    possible = torch.tensor([loss if math.isfinite(loss) else 0.0 for loss in losses])
    return float(module.loss.reduce(possible, token_lengths.cpu()))


def _shape_check(shapes: str, frames: list[int], samples: list[int], config: "DictConfig") -> Check:
    """The encoder gives as many frames as its subsampling says."""
    factor, causal = config.model.encoder.subsampling_factor, config.model.encoder.causal_downsampling
    law = [encoder_frames(mel_frames(int(count)), factor, causal) for count in samples]
    advice = f"frames should be {law}: the config's subsampling is not the model's"
    return Check("shapes", frames == law, f"{shapes}, {factor}x", advice)


def _outputs_check(symbols: int, tokens: int) -> Check:
    """The model has an output for each token and one for the blank."""
    advice = "the decoder was not made for this tokenizer"
    return Check("outputs", symbols == tokens + 1, f"{symbols} symbols, the blank last", advice)


def _uniform_check(measured: float, expected: float, formula: str) -> Check:
    """The model's loss gives a uniform model what CTC's definition does."""
    found = f"{measured:.4f}, expected {expected:.4f} = {formula} - ln alignments"
    advice = "the loss has another blank or other lengths than CTC"
    return Check("uniform loss", math.isclose(measured, expected, rel_tol=1e-3), found, advice)


def _loss_check(loss: float, expected: float, config: "DictConfig") -> Check:
    """The first step's loss beside a uniform model's; one that starts from other weights may be lower."""
    low, high = INITIAL_LOSS
    if config.get("init_from_nemo_model") or config.get("base_model"):
        low = 0.0
    found = f"{loss:.4f}, {loss / expected:.2f} of a uniform model's ({low} to {high} expected)"
    advice = (
        "a fresh model should know nothing and scatter little: look at the initial weights and the features"
    )
    return Check("initial loss", low * expected <= loss <= high * expected, found, advice)


def _gradient_check(module: Any) -> Check:
    """Every trainable parameter has a gradient, and all of them are finite."""
    trained = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
    missing = [name for name, grad in trained.items() if grad is None]
    broken = [name for name, grad in trained.items() if grad is not None and not torch.isfinite(grad).all()]
    norm = math.sqrt(sum(float((grad.double() ** 2).sum()) for grad in trained.values() if grad is not None))
    found = f"all of {len(trained)} parameters, norm {norm:.3g}"
    if missing or broken:
        found = f"none for {missing[:3]}, not finite for {broken[:3]}"
    return Check(
        "gradients", not missing and not broken, found, "use trainer.precision=32 and listen to the audio"
    )


def _update_check(module: Any, before: dict[str, float]) -> Check:
    """The optimiser has changed what can be trained."""
    after = fingerprints(dict(module.named_parameters()))
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    same = [name for name in trained if after[name] == before[name]]
    found = f"changed {len(trained) - len(same)} of {len(trained)} parameters"
    advice = f"{same[:3]} stayed: the learning rate is zero or they are in no parameter group"
    return Check("optimiser", not same, found, advice)


def _saved_checks(nemo: Path, saved: list[dict[str, float]], dev: list[dict]) -> list[Check]:
    """Checkpoint, restored .nemo, and its transcript."""
    checkpoints = list(nemo.parent.glob("*.ckpt"))
    model = restore_model(nemo)
    same = fingerprints(model.state_dict()) in saved
    texts = transcribe(model, dev)
    held = "the weights that were saved" if same else "other weights than were saved"
    size = f"{nemo.name}, {nemo.stat().st_size / 1e6:.1f} MB"
    transcript = f"'{dev[0]['text']}' -> '{texts[0]}' (after {STEPS} steps)"
    return [
        Check("checkpoint", bool(checkpoints), f"{len(checkpoints)} files", "look at exp_manager's settings"),
        Check("restored", same, f"{size}, {held}", "the .nemo does not hold what was trained"),
        Check("transcribed", len(texts) == len(dev), transcript),
    ]


def _memory_check() -> Check:
    """The peak of the device, or of the process."""
    if torch.cuda.is_available():
        peak, where = torch.cuda.max_memory_allocated(), "on the GPU"
    else:
        scale = 1 if sys.platform == "darwin" else 1024
        peak, where = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, "of the process"
    return Check("memory", True, f"{peak / 2**30:.2f} GiB at most {where}, for a batch of {UTTERANCES}")
