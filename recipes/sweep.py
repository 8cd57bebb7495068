"""Search training settings with Optuna: each trial is a training run, scored by its best validation CER.

    python recipes/sweep.py --config-name fastconformer_ko_demo --trials 20
    python recipes/sweep.py --config-name fastconformer_ko_demo --study masks trainer.max_steps=500 \\
        'model.spec_augment.time_masks=range(0,5)' 'model.spec_augment.freq_masks=choice(0,1,2)'

What is searched is written in Hydra's own sweep syntax: choice(a,b), range(0,5), interval(1e-4,1e-2), and
tag(log,interval(1e-4,1e-2)) for a logarithmic scale. Plain key=value holds for every trial. Without a sweep,
learning rate and masks are searched. The study is a SQLite file: the same command goes on after a kill, with
the training of the interrupted trial at its last checkpoint. Needs: pip install -r requirements-trackers.txt
"""

import argparse
import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.errors import OverrideParseException

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.training.record import run_name

DEFAULT_SPACE = (
    "model.optim.lr=tag(log,interval(3e-4,1e-2))",
    "model.spec_augment.freq_masks=range(0,3)",
    "model.spec_augment.time_masks=range(0,6)",
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-name", default="fastconformer_ko_demo", help="the config in conf/ to train")
    add("--trials", type=int, default=20, help="finished trials that the study shall have")
    add("--study", default="lr_masks", help="name of the study and of its folder under experiments/")
    add("--seed", type=int, default=1234, help="of the search; the trainings keep their own")
    add("overrides", nargs="*", help="key=value for every trial, key=SWEEP to search")
    return parser.parse_intermixed_args()


def split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[Override]]:
    """(what holds for every trial, what is searched); UserError for what Hydra cannot read."""
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise UserError(f"{error.override} is no key=value: {str(error).splitlines()[0]}") from error
    fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
    searched = [override for override in parsed if override.is_sweep_override()]
    return fixed, searched or OverridesParser.create().parse_overrides(list(DEFAULT_SPACE))


def suggest(trial: Any, override: Override) -> str:
    """One key=value of a trial."""
    key, sweep = override.get_key_element(), override.value()
    if isinstance(sweep, ChoiceSweep):
        return f"{key}={trial.suggest_categorical(key, [str(value) for value in sweep.list])}"
    logarithmic = "log" in sweep.tags
    if isinstance(sweep, IntervalSweep):
        return f"{key}={trial.suggest_float(key, sweep.start, sweep.end, log=logarithmic):.4g}"
    assert isinstance(sweep, RangeSweep)
    if isinstance(sweep.start, int) and isinstance(sweep.stop, int) and float(sweep.step).is_integer():
        last = range(sweep.start, sweep.stop, int(sweep.step))[-1]
        return f"{key}={trial.suggest_int(key, sweep.start, last, step=int(sweep.step))}"
    return f"{key}={trial.suggest_float(key, sweep.start, sweep.stop, step=sweep.step)}"


def train(config_name: str, folder: Path, overrides: Sequence[str]) -> float:
    """Train one trial, or go on with it, and return its best validation CER."""
    name = run_name("trial", overrides)
    recipe = Path(__file__).with_name("train_ctc.py")
    command = [sys.executable, str(recipe), "--config-name", config_name, *overrides]
    command += [f"name={name}", f"exp_manager.exp_dir={folder}"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8")
    curve = folder / name / "run" / "curve.jsonl"
    if done.returncode == 130:
        raise KeyboardInterrupt
    if done.returncode or not curve.is_file():
        said = done.stderr.strip().splitlines()[-1:] or ["no validation took place within trainer.max_steps"]
        raise UserError(f"the training of {name} failed: {said[0].removeprefix('error: ')}")
    rows = [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()]
    return min(row["cer"] for row in rows)


def open_study(folder: Path, name: str, seed: int) -> Any:
    """The study of ``folder``; a trial that was killed is put first in the queue."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(study_name=name, storage=f"sqlite:///{folder}/study.db", load_if_exists=True)
    # The sampler's state is not stored: with the same seed a second start would repeat the first's trials.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def main() -> None:
    args = arguments()
    if importlib.util.find_spec("optuna") is None:
        raise UserError("a sweep needs Optuna: pip install -r requirements-trackers.txt")
    import optuna

    fixed, searched = split_overrides(args.overrides)
    folder = Path("experiments") / args.study
    study = open_study(folder, args.study, args.seed)

    def finished() -> list[Any]:
        return study.get_trials(states=[optuna.trial.TrialState.COMPLETE])

    while len(finished()) < args.trials:
        trial = study.ask()
        chosen = [suggest(trial, override) for override in searched]
        print(f"trial {len(finished()) + 1} of {args.trials}: {' '.join(chosen)}", flush=True)
        trial.set_user_attr("overrides", chosen)
        study.tell(trial, train(args.config_name, folder, [*fixed, *chosen]))
        print(f"    CER {finished()[-1].value:.2%}", flush=True)
    ranked = sorted(finished(), key=lambda trial: trial.value)
    rows = [{"cer": trial.value, "overrides": trial.user_attrs["overrides"]} for trial in ranked]
    with atomic_write(folder / "trials.json") as stream:
        json.dump(rows, stream, ensure_ascii=False, indent=2)
    for row in rows[:5]:
        print(f"{row['cer']:8.2%}  {' '.join(row['overrides'])}")
    best = " ".join([*fixed, *rows[0]["overrides"]])
    print(f"wrote {folder}/trials.json")
    print(f"next: python recipes/train_ctc.py --config-name {args.config_name} {best}")


if __name__ == "__main__":
    run_main(main)
