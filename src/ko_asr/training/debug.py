"""Start small: three utterances through every stage of a recipe, and one batch learnt by heart.

Both run ``ko_asr.training.train.train`` itself on a small copy of the config, in a temporary folder, on one
device. ``debug`` asks whether everything is connected; ``overfit`` whether the model can learn at all.
"""

import copy
import math
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ko_asr.data.manifest import read_manifest, write_manifest
from ko_asr.errors import UserError
from ko_asr.runtime.frames import encoder_frames, is_feasible, mel_frames
from ko_asr.training.train import train

if TYPE_CHECKING:
    import torch
    from omegaconf import DictConfig

DEBUG_UTTERANCES, DEBUG_STEPS = 3, 3
OVERFIT_UTTERANCES, OVERFIT_STEPS, OVERFIT_CHECK = 4, 400, 10
LOOKED_AT = 1000  # entries of a manifest that the few are chosen from
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


def uniform_loss(tokens: Sequence[int], frames: int, symbols: int) -> float:
    """CTC loss (nats) of one utterance under a model that gives each of ``symbols`` 1/symbols in each frame.

    All ``symbols ** frames`` paths are equally likely, and C(T + U - R, 2U) of them spell U tokens with R
    equal neighbours in T frames (Graves et al. 2006, section 3: U tokens, U + 1 optional blanks of which R
    must be there), so the loss is T ln(symbols) - ln C(T + U - R, 2U); infinite where no path fits.

    >>> round(uniform_loss([1], 2, 3), 6) == round(2 * math.log(3) - math.log(3), 6)
    True
    """
    length, repeats = len(tokens), sum(a == b for a, b in pairwise(tokens))
    top, chosen = frames + length - repeats, 2 * length
    if chosen > top:
        return math.inf
    ways = math.lgamma(top + 1) - math.lgamma(chosen + 1) - math.lgamma(top - chosen + 1)
    return frames * math.log(symbols) - ways


# ---- the small run ------------------------------------------------------------------------------------


def choose(config: "DictConfig", manifest: str, count: int) -> list[dict]:
    """``count`` entries that training takes, from the shortest to the longest of a manifest's first."""
    from ko_asr.text.tokenizer import load

    limits, encoder = config.model.train_ds, config.model.encoder
    tokenizer = load(config.model.tokenizer.dir)
    taken = []
    for entry, _ in zip(read_manifest(manifest), range(LOOKED_AT), strict=False):
        inside = (limits.get("min_duration") or 0) <= entry["duration"] <= (limits.get("max_duration") or 1e9)
        tokens = tokenizer.encode(entry["text"])
        if inside and is_feasible(
            tokens, entry["duration"], encoder.subsampling_factor, encoder.causal_downsampling
        ):
            taken.append(entry)
    if len(taken) < count:
        raise UserError(
            f"among the first {LOOKED_AT} of {manifest} are {len(taken)} that training would take, and "
            f"{count} are needed: look at model.train_ds.min_duration, max_duration and the CTC feasibility"
        )
    taken.sort(key=lambda entry: entry["duration"])
    return [taken[round(k * (len(taken) - 1) / (count - 1))] for k in range(count)]


def small_config(
    config: "DictConfig", folder: Path, train: list[dict], dev: list[dict], steps: int, epoch: int = 1
) -> "DictConfig":
    """A copy of ``config`` with batches of as many utterances as ``train`` has, writing into ``folder``.

    It validates after each ``epoch`` steps, and ends after ``steps``. Augmentation stays: speed perturbation
    adds two versions of each utterance to an epoch.
    """
    from omegaconf import open_dict

    small = copy.deepcopy(config)
    with open_dict(small):
        small.debug = small.profile = False
        small.advised_batch = small.feature_cache_mb = 0
        small.exp_manager.exp_dir = str(folder / "experiments")
        for dataset, entries, times in (
            (small.model.train_ds, train, epoch),
            (small.model.validation_ds, dev, 1),
        ):
            if dataset.get("input_cfg") is None:
                path = folder / f"{len(list(folder.glob('*.jsonl')))}.jsonl"
                write_manifest(path, entries * times)
                dataset.manifest_filepath = str(path)
            dataset.update(
                batch_size=len(entries), batch_duration=None, quadratic_duration=None, num_workers=0,
                use_bucketing=False, pin_memory=False, shuffle=False,
            )  # fmt: skip
        small.trainer.update(
            devices=1, num_nodes=1, max_steps=steps, max_epochs=-1, limit_train_batches=epoch,
            limit_val_batches=1, val_check_interval=1.0, check_val_every_n_epoch=1,
            accumulate_grad_batches=1, log_every_n_steps=1, enable_progress_bar=False, sync_batchnorm=False,
        )  # fmt: skip
        if "warmup_steps" in small.model.optim.get("sched", {}):
            small.model.optim.sched.warmup_steps = min(20, steps // 2)
    return small


def run_small(config: "DictConfig", make_model: Callable, callbacks: Sequence[Any]) -> Path:
    """Train the small config and return its .nemo."""
    model = train(config, make_model, callbacks)
    assert model is not None  # debug and profile are off in a small config
    return model


# ---- debug=true ---------------------------------------------------------------------------------------


def debug(config: "DictConfig", make_model: Callable) -> None:
    """Load, train, validate, checkpoint, restore and transcribe three utterances; print a checklist.

    Raises UserError, after the whole list, for the first item that does not hold.
    """
    with tempfile.TemporaryDirectory(prefix="ko_asr_debug_") as name:
        folder = Path(name)
        train = choose(config, config.model.train_ds.manifest_filepath, DEBUG_UTTERANCES)
        dev = choose(config, config.model.validation_ds.manifest_filepath, DEBUG_UTTERANCES)
        small = small_config(config, folder, train, dev, DEBUG_STEPS, epoch=DEBUG_STEPS)
        watch = _watch(small)
        nemo = run_small(small, make_model, [watch])
        checks = [*_data_checks(config, train), *watch.checks, *_saved_checks(nemo, watch.saved, dev)]
        checks.append(_memory_check())
    print(f"debug: {config.name}, {DEBUG_STEPS} steps over {DEBUG_UTTERANCES} utterances")
    print("\n".join(map(str, checks)), flush=True)
    for check in checks:
        if not check.ok:
            raise UserError(f"debug: {check.name}: {check.found}; {check.advice}")
    print("debug: everything holds; next: recipes/overfit_batch.py, profile=true, then the run itself")


def _data_checks(config: "DictConfig", train: list[dict]) -> list[Check]:
    """Where things are, and what the tokenizer makes of the texts."""
    from ko_asr.text.tokenizer import load

    tokenizer = load(config.model.tokenizer.dir)
    texts = [entry["text"] for entry in train]
    tokens = [tokenizer.encode(text) for text in texts]
    changed = [text for text, ids in zip(texts, tokens, strict=True) if tokenizer.decode(ids) != text]
    seconds = ", ".join(f"{entry['duration']:.1f}" for entry in train)
    known = f"{sum(map(len, tokens))} tokens of {tokenizer.get_piece_size()} pieces, '{texts[0]}' -> "
    known += " ".join(tokenizer.id_to_piece(i) for i in tokens[0][:8])
    return [
        Check("paths", True, f"{config.model.train_ds.manifest_filepath}, {config.model.tokenizer.dir}"),
        Check("utterances", True, f"{seconds} s"),
        Check(
            "tokens", not changed,
            known if not changed else f"'{changed[0]}' does not come back from its tokens",
            "build a tokenizer from this corpus, or prepare the text with the rules of the tokenizer",
        ),
    ]  # fmt: skip


def _watch(config: "DictConfig") -> Any:
    """The Lightning callback that sees what only the inside of training shows; ``checks`` and ``saved``."""
    import lightning.pytorch as pl

    class Watch(pl.Callback):
        def __init__(self) -> None:
            self.checks: list[Check] = []
            self.saved: list[dict[str, float]] = []
            self.expected = math.nan
            self.before: dict[str, float] = {}

        def on_train_batch_start(
            self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 0:
                self.before = fingerprints(module.state_dict())
                self.expected, found = _forward_checks(module, batch, config)
                self.checks += found

        def on_after_backward(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            if trainer.global_step == 0:
                self.checks.append(_gradient_check(module))

        def on_train_batch_end(
            self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == 1:
                self.checks.append(_loss_check(float(outputs["loss"]), self.expected, config))
                self.checks.append(_update_check(module, self.before))

        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            loss, rate = (float(trainer.callback_metrics[name]) for name in ("val_loss", "val_wer"))
            self.checks.append(
                Check("validation", math.isfinite(loss), f"loss {loss:.2f}, error rate {rate:.0%}",
                      "look at the audio of the validation manifest")
            )  # fmt: skip

        def on_save_checkpoint(
            self, trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict
        ) -> None:
            self.saved.append(fingerprints(checkpoint["state_dict"]))

    return Watch()


def fingerprints(state: "dict[str, torch.Tensor]") -> dict[str, float]:
    """A number for each tensor that a step of training changes: without copying the model."""
    return {name: float((value.double() ** 2).sum() + value.double().sum()) for name, value in state.items()}


def _forward_checks(module: Any, batch: tuple, config: "DictConfig") -> tuple[float, list[Check]]:
    """(expected initial loss, checks) of the first batch through a model in evaluation mode."""
    import torch

    signal, lengths, tokens, token_lengths = batch[:4]
    modes = {part: part.training for part in module.modules()}  # a frozen encoder stays in evaluation mode
    module.eval()
    with torch.no_grad():
        mel, mel_lengths = module.preprocessor(input_signal=signal, length=lengths)
        log_probs, frames, _ = module.forward(processed_signal=mel, processed_signal_length=mel_lengths)
        flat = torch.full_like(log_probs, -math.log(log_probs.shape[-1]), dtype=torch.float32)
        measured = float(
            module.loss(log_probs=flat, targets=tokens, input_lengths=frames, target_lengths=token_lengths)
        )
    for part, training in modes.items():
        part.training = training
    encoder = config.model.encoder
    law = [
        encoder_frames(mel_frames(int(n)), encoder.subsampling_factor, encoder.causal_downsampling)
        for n in lengths
    ]
    rows = [ids[:n].tolist() for ids, n in zip(tokens, token_lengths, strict=True)]
    symbols = log_probs.shape[-1]
    losses = [uniform_loss(ids, int(n), symbols) for ids, n in zip(rows, frames, strict=True)]
    # As NeMo's zero_infinity has it: speed perturbation can leave an utterance too few frames.
    possible = torch.tensor([loss if math.isfinite(loss) else 0.0 for loss in losses])
    expected = float(module.loss.reduce(possible, token_lengths.cpu()))
    formula = f"{module.loss.config_reduction} of T ln {symbols} - ln alignments"
    shapes = " -> ".join(
        f"{name} {list(value.shape)}"
        for name, value in (("audio", signal), ("log-mel", mel), ("log-probabilities", log_probs))
    )
    return expected, [
        Check("shapes", frames.tolist() == law, f"{shapes}, {encoder.subsampling_factor}x",
              f"frames should be {law}: the config's subsampling is not the model's"),
        Check("outputs", symbols == module.tokenizer.vocab_size + 1, f"{symbols} symbols, the blank last",
              "the decoder was not made for this tokenizer"),
        Check("uniform loss", math.isclose(measured, expected, rel_tol=1e-3),
              f"{measured:.4f}, expected {expected:.4f} = {formula}",
              "the loss has another blank or other lengths than CTC"),
    ]  # fmt: skip


def _loss_check(loss: float, expected: float, config: "DictConfig") -> Check:
    """The first step's loss beside a uniform model's; one that starts from other weights may be lower."""
    low, high = INITIAL_LOSS
    if config.get("init_from_nemo_model") or config.get("base_model"):
        low = 0.0
    return Check(
        "initial loss", low * expected <= loss <= high * expected,
        f"{loss:.4f}, {loss / expected:.2f} of a uniform model's ({low} to {high} expected)",
        "a fresh model should know nothing and scatter little: look at the initial weights and the features",
    )  # fmt: skip


def _gradient_check(module: Any) -> Check:
    """Every trainable parameter has a gradient, and all of them are finite."""
    import torch

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
    return Check(
        "optimiser", not same, f"changed {len(trained) - len(same)} of {len(trained)} parameters",
        f"{same[:3]} stayed: the learning rate is zero or they are in no parameter group",
    )  # fmt: skip


def _saved_checks(nemo: Path, saved: list[dict[str, float]], dev: list[dict]) -> list[Check]:
    """Checkpoint, restored .nemo, and its transcript."""
    from ko_asr.models.nemo_file import restore_model
    from ko_asr.models.transcribe import transcribe

    checkpoints = list(nemo.parent.glob("*.ckpt"))
    model = restore_model(nemo)
    same = fingerprints(model.state_dict()) in saved
    texts = transcribe(model, dev)
    held = "the weights that were saved" if same else "other weights than were saved"
    said = f"'{dev[0]['text']}' -> '{texts[0]}' (after {DEBUG_STEPS} steps)"
    return [
        Check("checkpoint", bool(checkpoints), f"{len(checkpoints)} files", "look at exp_manager's settings"),
        Check("restored", same, f"{nemo.name}, {nemo.stat().st_size / 1e6:.1f} MB, {held}",
              "the .nemo does not hold what was trained"),
        Check("transcribed", len(texts) == len(dev), said),
    ]  # fmt: skip


def _memory_check() -> Check:
    """The peak of the device, or of the process."""
    import torch

    if torch.cuda.is_available():
        peak, where = torch.cuda.max_memory_allocated(), "on the GPU"
    else:
        scale = 1 if sys.platform == "darwin" else 1024
        peak, where = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, "of the process"
    return Check("memory", True, f"{peak / 2**30:.2f} GiB at most {where}, for a batch of {DEBUG_UTTERANCES}")


# ---- recipes/overfit_batch.py -------------------------------------------------------------------------


def overfit(config: "DictConfig", make_model: Callable | None = None) -> tuple[int, float, float]:
    """Learn one batch by heart; (steps, first loss, last loss). Raises UserError when the model cannot.

    Without augmentation, dropout or weight decay a model that is connected rightly spells out four
    utterances after some hundred steps; the .nemo it leaves must transcribe them without an error.
    """
    from ko_asr.training.train import new_model

    with tempfile.TemporaryDirectory(prefix="ko_asr_overfit_") as name:
        folder = Path(name)
        batch = shortest(config, OVERFIT_UTTERANCES)
        small = small_config(config, folder, batch, batch, OVERFIT_STEPS, epoch=OVERFIT_CHECK)
        _nothing_random(small)
        small.exp_manager.create_checkpoint_callback = False  # the .nemo is written from memory at the end
        watch = _until_learnt()
        nemo = run_small(small, make_model or new_model, [watch])
        from ko_asr.models.nemo_file import restore_model
        from ko_asr.models.transcribe import transcribe

        texts = transcribe(restore_model(nemo), batch)
    for entry, text in zip(batch, texts, strict=True):
        print(f"  {'learnt' if text == entry['text'] else 'NOT   '} {entry['text']} -> {text}", flush=True)
    wrong = sum(text != entry["text"] for entry, text in zip(batch, texts, strict=True))
    if wrong:
        raise UserError(
            f"after {watch.steps} steps {wrong} of {len(batch)} utterances of one batch are not learnt (loss "
            f"{watch.first:.2f} -> {watch.last:.2f} a token): audio and text may not belong together, or "
            "model.optim.lr is far off; do not start the long run"
        )
    return watch.steps, watch.first, watch.last


def shortest(config: "DictConfig", count: int) -> list[dict]:
    """The shortest utterances of a choice of the training manifest's: quick to learn, all different."""
    spread = choose(config, config.model.train_ds.manifest_filepath, 8 * count)
    different = {entry["text"]: entry for entry in reversed(spread)}
    return sorted(different.values(), key=lambda entry: entry["duration"])[:count]


def _nothing_random(config: "DictConfig") -> None:
    """Take out all that keeps a model from learning by heart."""
    from omegaconf import open_dict

    model = config.model
    with open_dict(config):
        for key in (
            "dropout",
            "dropout_pre_encoder",
            "dropout_emb",
            "dropout_att",
            "stochastic_depth_drop_prob",
        ):
            model.encoder[key] = 0.0
        model.preprocessor.dither = 0.0
        model.spec_augment = None
        model.train_ds.update(
            perturb_speed=False, noise_path=None, rir_enabled=False, concatenate_samples=False
        )
        model.optim.weight_decay = 0.0


def _until_learnt() -> Any:
    """The Lightning callback that ends training at the first validation without an error."""
    import lightning.pytorch as pl

    class UntilLearnt(pl.Callback):
        def __init__(self) -> None:
            self.first = self.last = math.nan
            self.steps = 0

        def on_train_batch_end(
            self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.last, self.steps = float(outputs["loss"]), trainer.global_step
            if self.steps == 1:
                self.first = self.last

        def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
            trainer.should_stop = float(trainer.callback_metrics["val_wer"]) == 0.0

    return UntilLearnt()
