"""Pack a manifest's audio into shards for training from slow or shared disks, on one machine or many.

    python recipes/shard_manifest.py --manifest data/ksponspeech/train.jsonl --out data/ksponspeech/shards
    python recipes/shard_manifest.py --manifest ... --out ... --format shar --num-buckets 30 --jobs 8

The same command goes on after an interruption. Writes the shards, input_cfg.yaml (what NeMo's data loader
takes as model.train_ds.input_cfg) and shards.json (counts, duration buckets, who was left out and why).
"""

import argparse
import json
import sys
from pathlib import Path

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True, help="a NeMo manifest")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the shards, empty or of the same plan"
    )
    parser.add_argument(
        "--format", choices=("tarred", "shar"), default="tarred", help="NeMo tarred or Lhotse Shar"
    )
    parser.add_argument("--utterances-per-shard", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0, help="of the shuffle over the shards")
    parser.add_argument("--num-buckets", type=int, default=30, help="duration buckets to estimate")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--max-rejected", type=float, default=0.01, help="share of utterances that may be left out"
    )
    args = parser.parse_args()
    if min(args.utterances_per_shard, args.num_buckets, args.jobs) < 1:
        parser.error("--utterances-per-shard, --num-buckets and --jobs must be at least 1")
    return args


def main() -> int:
    args = arguments()
    from tqdm import tqdm

    from ko_asr.data import shards

    plan, offsets = shards.make_plan(args.manifest, args.format, args.utterances_per_shard, args.seed)
    durations = shards.checked_durations(args.manifest)
    bins = shards.bucket_duration_bins(durations, args.num_buckets)
    with tqdm(total=len(offsets), unit="utt", desc="sharding", file=sys.stderr) as bar:
        rejected = shards.write_shards(plan, offsets, args.out, args.jobs, bar.update)
    options = shards.loader_options(args.out, plan)
    kind = {"tarred": "nemo_tarred", "shar": "lhotse_shar"}[args.format]
    with atomic_write(args.out / "input_cfg.yaml") as stream:
        stream.write(
            "\n".join([f"- type: {kind}", *(f"  {key}: {value}" for key, value in options.items())]) + "\n"
        )
    kept = len(offsets) - len(rejected)
    report = {
        "utterances": kept,
        "hours": durations.sum() / 3600,
        "bucket_duration_bins": bins,
        "rejected": rejected,
    }
    with atomic_write(args.out / "shards.json") as stream:
        json.dump(report, stream, ensure_ascii=False, indent=2)

    print(
        f"{kept} utterances in {plan.shards} {args.format} shards under {args.out}, {len(rejected)} left out"
    )
    print(f"bucket_duration_bins: [{', '.join(f'{edge:g}' for edge in bins)}]")
    print(f"wrote {args.out}/input_cfg.yaml and shards.json; next:")
    print("  python recipes/train_ctc.py --config-name fastconformer_ko \\")
    print(f"    model.train_ds.input_cfg={args.out}/input_cfg.yaml \\")
    print(f"    'model.train_ds.bucket_duration_bins=[{','.join(f'{edge:g}' for edge in bins)}]'")
    if not kept:
        raise UserError(f"no utterance could be read; the reasons are in {args.out}/shards.json")
    if len(rejected) > args.max_rejected * len(offsets):
        share = len(rejected) / len(offsets)
        raise UserError(
            f"{share:.1%} of the utterances were left out (limit {args.max_rejected:.1%}), the first is "
            f"{rejected[0]['audio_filepath']}: {rejected[0]['reason']}; {args.out}/shards.json has them all"
        )
    return 0


if __name__ == "__main__":
    run_main(main)
