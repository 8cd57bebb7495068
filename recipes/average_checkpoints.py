"""Average the weights of one training run's checkpoints into one .nemo.

    python recipes/average_checkpoints.py experiments/NAME/checkpoints --out averaged.nemo
    python recipes/average_checkpoints.py A.ckpt B.ckpt C.ckpt --template NAME.nemo --out averaged.nemo \\
        --manifest data/ksponspeech/dev.jsonl

A folder stands for its top-k checkpoints without the copy of the last step; .nemo files may be given as well.
Configuration and tokenizer come from --template, by default the first .nemo given or lying beside the
checkpoints. With --manifest the CER of the result is measured and printed.
"""

import argparse
import contextlib
from pathlib import Path

from ko_asr.errors import UserError, run_main
from ko_asr.models.nemo_file import check_nemo_file


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="CKPT_OR_DIR")
    parser.add_argument("--out", type=Path, required=True, help="the .nemo to write")
    parser.add_argument("--best", type=int, metavar="K", help="of a folder only the K best by val_wer")
    parser.add_argument("--template", type=Path, help="the .nemo that gives configuration and tokenizer")
    parser.add_argument("--manifest", type=Path, help="measure the result's CER on this dev manifest")
    args = parser.parse_args()
    if args.best is not None and args.best < 2:
        parser.error("--best must be at least 2")
    if args.out.suffix != ".nemo":
        parser.error(f"--out must end in .nemo, not {args.out.name}")
    return args


def find_inputs(inputs: list[Path], best: int | None) -> list[Path]:
    """The files to average, each once; UserError when there are fewer than two."""
    from ko_asr.models.weights import checkpoints_in

    found = [path for each in inputs for path in (checkpoints_in(each, best) if each.is_dir() else [each])]
    if missing := [path for path in found if not path.is_file()]:
        raise UserError(f"no checkpoint at {missing[0]}: give .ckpt or .nemo files, or a folder of them")
    unique = list(dict.fromkeys(path.resolve() for path in found))
    if len(unique) < 2:
        raise UserError(
            f"there is only {unique[0]} to average: give two or more, or train with "
            "exp_manager.checkpoint_callback_params.save_top_k=5"
        )
    return unique


def find_template(inputs: list[Path], given: Path | None) -> Path:
    """The .nemo whose configuration and tokenizer the result gets."""
    beside = [path for path in inputs if path.suffix == ".nemo"] or sorted(inputs[0].parent.glob("*.nemo"))
    if given is None and not beside:
        raise UserError(
            f"no .nemo beside {inputs[0]}: name the model that gives configuration and tokenizer "
            "with --template (any .nemo of the same config, such as a run with trainer.max_steps=1 writes)"
        )
    template = given or beside[0]
    check_nemo_file(template)
    return template


def average(inputs: list[Path], template: Path, out: Path) -> None:
    """Write the mean of ``inputs`` as ``out``; UserError when one is of another model than the template."""
    from ko_asr.models import weights

    with contextlib.ExitStack() as stack:
        expected = stack.enter_context(weights.open_weights(template))
        states = []
        for path in inputs:
            states.append(stack.enter_context(weights.open_weights(path)))
            if difference := weights.first_difference(expected, states[-1]):
                raise UserError(f"{path} is of another model than {template}: {difference}")
            print(f"  {path.name}: {weights.distance(states[0], states[-1]):.4f} from the first", flush=True)
        mean = weights.combine(states, [1.0] * len(states))
        weights.write_nemo(template, out, mean, {"averaged": [path.name for path in inputs]})


def main() -> None:
    args = arguments()
    from ko_asr.evaluation import dev_score

    inputs = find_inputs(args.inputs, args.best)
    template = find_template(inputs, args.template)
    entries = dev_score.references(args.manifest) if args.manifest else None
    print(f"averaging {len(inputs)} checkpoints into {args.out} (configuration of {template})", flush=True)
    average(inputs, template, args.out)
    errors = None
    if entries:
        errors = dev_score.character_errors(dev_score.load_writer(args.out, entries), entries)
    print(dev_score.described(args.manifest, errors))
    print(f"wrote {args.out}")
    print(f"next: python recipes/evaluate.py --model {args.out} --manifest EVAL.jsonl --out evaluations/avg")


if __name__ == "__main__":
    run_main(main)
