"""Noise and room responses for training, from MUSAN, DEMAND, RIRS_NOISES or folders of your own recordings.

    python recipes/prepare_noise.py --noise /data/musan --noise /data/DEMAND --out data/noise
    python recipes/prepare_noise.py --noise /data/musan --rir /data/RIRS_NOISES --out data/noise

Writes 16 kHz mono FLAC in pieces of at most 20 s, noise.json and noise_heldout.json (NeMo manifests for
train_ds.noise_path and for noisy test sets), rir.jsonl.gz (Lhotse recordings for train_ds.rir_path) and
audit.json (every file left out and why). Finished files are kept when the command runs again.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--noise", type=Path, action="append", default=[], help="folder of noise (repeatable)"
    )
    parser.add_argument(
        "--rir", type=Path, action="append", default=[], help="folder of room responses (repeatable)"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=("noise", "music", "speech"),
        default=["noise", "music"],
        help="of MUSAN",
    )
    parser.add_argument("--longest", type=float, default=20.0, help="seconds of one piece of noise")
    parser.add_argument(
        "--held-out", type=float, default=0.1, help="share of the noise files kept from training"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of held-out files")
    args = parser.parse_args()
    if not args.noise and not args.rir:
        parser.error("give --noise or --rir")
    if args.longest < 1 or not 0 <= args.held_out < 1:
        parser.error("--longest must be at least 1 and --held-out in [0, 1)")
    return args


def gather(args: argparse.Namespace) -> list:
    from ko_asr.data.noise import find_sounds

    wanted = {*args.parts, "rir"}
    found = [sound for folder in args.noise for sound in find_sounds(folder, "noise")]
    found += [sound for folder in args.rir for sound in find_sounds(folder, "rir") if sound.part == "rir"]
    return sorted({sound for sound in found if sound.part in wanted}, key=lambda sound: str(sound.path))


def main() -> int:
    args = arguments()
    from tqdm import tqdm

    from ko_asr.data import noise
    from ko_asr.data.manifest import write_manifest
    from ko_asr.runtime.frames import SAMPLE_RATE

    sounds = gather(args)
    kept_away = noise.hold_out([str(s.path) for s in sounds if s.part != "rir"], args.held_out, args.seed)
    entries: dict[str, list[dict]] = {"noise": [], "noise_heldout": []}
    responses: list[tuple[Path, int]] = []
    rejected = []
    for sound in tqdm(sounds, unit="file", desc="converting", file=sys.stderr):
        try:
            written = noise.convert(sound, args.out / "audio", args.longest)
        except ValueError as error:
            rejected.append({"file": str(sound.path), "part": sound.part, "reason": str(error)})
            continue
        if sound.part == "rir":
            responses += written
            continue
        group = "noise_heldout" if str(sound.path) in kept_away else "noise"
        for path, samples in written:
            entry = {"audio_filepath": str(path), "duration": samples / SAMPLE_RATE, "text": ""}
            entries[group].append(entry | {"sampling_rate": SAMPLE_RATE, "part": sound.part})
    if not entries["noise"] and not responses:
        first = rejected[0] if rejected else {"file": "none found", "reason": f"no sound is of {args.parts}"}
        raise UserError(f"no file was of use; the first: {first['file']}: {first['reason']}")

    options = []
    for name, rows in entries.items():
        if rows:
            write_manifest(args.out / f"{name}.json", rows)
            print(f"{name}: {len(rows)} pieces, {sum(row['duration'] for row in rows) / 3600:.2f} h")
    if entries["noise"]:
        options.append(f"augment=noise model.train_ds.noise_path={args.out}/noise.json")
    if responses:
        noise.write_recordings(args.out / "rir.jsonl.gz", responses)
        print(f"rir: {len(responses)} room responses")
        options.append(f"model.train_ds.rir_path={args.out}/rir.jsonl.gz")
    else:
        options.append("model.train_ds.rir_enabled=false model.train_ds.rir_path=null")
    counts = dict(Counter(sound.part for sound in sounds))
    with atomic_write(args.out / "audit.json") as stream:
        json.dump(
            {"files": len(sounds), "parts": counts, "rejected": rejected},
            stream,
            ensure_ascii=False,
            indent=2,
        )
    print(
        f"wrote {args.out}; {len(rejected)} of {len(sounds)} files left out (audit.json says why); train with"
    )
    print(f"  {' '.join(options)}")
    return 0


if __name__ == "__main__":
    run_main(main)
