"""Time a corpus straight into tar shards beside Lhotse's own KsponSpeech preparation:

    python bench/shards.py [--utterances 10000] [--folder /tmp] [--out bench/results/shards.json]

The same headerless PCM (synthetic, 3 to 5 s, in KsponSpeech's layout) is prepared by Lhotse's
prepare_ksponspeech with one job, which writes a FLAC file an utterance, and by recipes/prepare_ksponspeech.py
with --shards, with one process and with two: text rules, audit and report included. Rates are utterances a
second of wall time; start-up is in them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ko_asr.audio.espeak import synthesize
from ko_asr.errors import run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance

ROOT = Path(__file__).parent.parent


def make_corpus(root: Path, utterances: int) -> None:
    """Make speech with noise 40 dB below it, so that FLAC has as much to do as with recordings."""
    rng = np.random.default_rng(0)
    spoken = np.concatenate(
        [synthesize("오늘은 날씨가 정말 좋아서 친구와 함께 산책을 갔습니다") for _ in range(4)]
    )
    lines = []
    for number in range(utterances):
        start, length = rng.integers(0, len(spoken) - 80_000), rng.integers(48_000, 80_000)
        samples = 20_000 * spoken[start : start + length] + rng.normal(0, 60, length)
        path = f"KsponSpeech_01/KsponSpeech_{number // 1000 + 1:04d}/KsponSpeech_{number + 1:06d}.pcm"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(samples.astype("<i2").tobytes())
        lines.append(f"{path} :: b/ 오늘은 (20도)/(이십 도)라서 산책을 {number}번 갔어요.\n")
    (root / "train.trn").write_text("".join(lines), encoding="utf-8")


def lhotse_seconds(corpus: Path, out: Path) -> float:
    code = "import sys; from lhotse.recipes.ksponspeech import prepare_ksponspeech as prepare; "
    code += "prepare(sys.argv[1], 'train', sys.argv[2], 1)"
    return timed([sys.executable, "-c", code, str(corpus), str(out)])


def our_seconds(corpus: Path, out: Path, jobs: int) -> float:
    command = [sys.executable, str(ROOT / "recipes/prepare_ksponspeech.py"), "--corpus", str(corpus)]
    command += [
        "--out",
        str(out),
        "--splits",
        "train",
        "--jobs",
        str(jobs),
        "--shards",
        "512",
        "--tokenizers",
    ]
    return timed(command)


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=tempfile.gettempdir(), capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=10_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the temporary folder)")
    parser.add_argument("--out", type=Path, default=Path("bench/results/shards.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root = Path(folder)
        make_corpus(root / "corpus", args.utterances)
        seconds = {}
        for jobs in (2, 1):
            seconds[f"ours, straight into shards, {jobs} processes"] = our_seconds(
                root / "corpus", root / f"s{jobs}", jobs
            )
            shutil.rmtree(root / f"s{jobs}")
        # last, because it writes its FLAC into the corpus
        seconds["lhotse prepare_ksponspeech, one job"] = lhotse_seconds(root / "corpus", root / "lhotse")
    rates = {name: args.utterances / value for name, value in seconds.items()}
    theirs = rates["lhotse prepare_ksponspeech, one job"]
    for name, rate in rates.items():
        print(f"{rate:>8.0f} utterances/s  {rate / theirs:>5.2f} x  {name}")
    figures = {
        "provenance": provenance(("lhotse", "soundfile", "numpy")),
        "utterances": args.utterances,
        "utterances_per_second": rates,
        "ratios_to_lhotse": {name: rate / theirs for name, rate in rates.items()},
        "load_average": os.getloadavg(),
    }
    with atomic_write(args.out) as stream:
        json.dump(figures, stream, indent=1)
        stream.write("\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
