"""Merge models that were fine-tuned from one ancestor, or adapters with the model they were trained on.

    python recipes/merge_models.py A.nemo B.nemo --weights 0.6 0.4 --out C.nemo
    python recipes/merge_models.py A.nemo B.nemo --sweep 0,0.25,0.5,0.75,1 --manifest dev.jsonl --out C.nemo
    python recipes/merge_models.py BASE.nemo --adapters NAME.safetensors --out C.nemo

Weights are scaled to sum to one. --sweep gives the first of two models each weight in turn, measures the CER
on --manifest and writes the best. A merge of models without a common ancestor is noise: the distance between
the models is printed, and a warning where it looks like that. Adapters of recipes/finetune.py (strategy
adapters) are put into their base model, which is again one stock .nemo.
"""

import argparse
import contextlib
from pathlib import Path
from typing import Any

from ko_asr.errors import UserError, run_main

_UNRELATED = 1.0  # distance above which models hardly share an ancestor; random ones are at 1.41


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", type=Path, metavar="NEMO")
    parser.add_argument("--out", type=Path, required=True, help="the .nemo to write")
    parser.add_argument("--weights", nargs="+", type=float, help="one for each model (default: equal)")
    parser.add_argument("--sweep", metavar="W,W,...", help="weights of the first model to try on --manifest")
    parser.add_argument("--adapters", type=Path, help="adapters to put into the one model")
    parser.add_argument("--manifest", type=Path, help="measure the CER on this dev manifest")
    args = parser.parse_args()
    check(parser, args)
    return args


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends the command where options do not go together; turns --sweep into numbers."""
    if args.out.suffix != ".nemo":
        parser.error(f"--out must end in .nemo, not {args.out.name}")
    if args.adapters and (len(args.models) != 1 or args.weights or args.sweep):
        parser.error("--adapters goes with one model, and without --weights and --sweep")
    if not args.adapters and len(args.models) < 2:
        parser.error("give two or more models, or one and --adapters")
    if args.sweep and (len(args.models) != 2 or not args.manifest or args.weights):
        parser.error("--sweep goes with two models and --manifest, and without --weights")
    weights = args.weights or [1.0] * len(args.models)
    if len(weights) != len(args.models) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        parser.error("--weights needs one number for each model, none negative and one above zero")
    args.weights = weights
    try:
        args.sweep = [float(part) for part in args.sweep.split(",")] if args.sweep else []
    except ValueError:
        parser.error(f"--sweep {args.sweep} is not a list of numbers such as 0,0.5,1")
    if any(not 0 <= weight <= 1 for weight in args.sweep):
        parser.error("--sweep takes weights between 0 and 1")


def sweep(args: argparse.Namespace, states: list[dict], entries: list[dict]) -> tuple[list[float], dict]:
    """Measure each weight of the first model; the best weights and their figure."""
    from ko_asr.evaluation import dev_score
    from ko_asr.models.weights import combine

    model = dev_score.load_writer(args.models[0], entries)
    found: list[tuple[float, dict]] = []
    for first in args.sweep:
        model.load_state_dict(combine(states, [first, 1 - first]))
        found.append((first, dev_score.character_errors(model, entries)))
        print(f"  {first:.3g} x {args.models[0].name}: {dev_score.described(args.manifest, found[-1][1])}")
    best, errors = min(found, key=lambda each: each[1]["rate"])
    return [best, 1 - best], errors


def merge(args: argparse.Namespace, entries: list[dict] | None) -> dict | None:
    """Write the merged model; the figure of the sweep where there was one."""
    from ko_asr.models import weights
    from ko_asr.provenance import sha256

    for other in args.models[1:]:
        weights.check_same_model(args.models[0], other)
    errors: dict[str, Any] | None = None
    with contextlib.ExitStack() as stack:
        states = [stack.enter_context(weights.open_weights(path)) for path in args.models]
        for path, state in zip(args.models[1:], states[1:], strict=True):
            if difference := weights.first_difference(states[0], state):
                raise UserError(f"{args.models[0]} and {path} cannot be merged: {difference}")
            distance = weights.distance(states[0], state)
            print(f"  {path} is {distance:.3f} from {args.models[0]}", flush=True)
            if distance > _UNRELATED:
                print("  warning: they do not look fine-tuned from one ancestor; measure the result")
        chosen = args.weights
        if args.sweep and entries:
            chosen, errors = sweep(args, states, entries)
        shares = [weight / sum(chosen) for weight in chosen]
        sources = [
            {"model": path.name, "sha256": sha256(path), "weight": share}
            for path, share in zip(args.models, shares, strict=True)
        ]
        weights.write_nemo(args.models[0], args.out, weights.combine(states, chosen), {"merged": sources})
    print("weights: " + ", ".join(f"{s:.3g} {p.name}" for s, p in zip(shares, args.models, strict=True)))
    return errors


def main() -> None:
    args = arguments()
    from ko_asr.evaluation import dev_score

    entries = dev_score.references(args.manifest) if args.manifest else None
    errors = None
    if args.adapters:
        from ko_asr.models.adapters import merge_adapters

        merge_adapters(args.models[0], args.adapters, args.out)
    else:
        errors = merge(args, entries)
    if entries and errors is None:
        errors = dev_score.character_errors(dev_score.load_writer(args.out, entries), entries)
    print(dev_score.described(args.manifest, errors))
    print(f"wrote {args.out}")
    print(
        f"next: python recipes/evaluate.py --model {args.out} --manifest EVAL.jsonl --out evaluations/merged"
    )


if __name__ == "__main__":
    run_main(main)
