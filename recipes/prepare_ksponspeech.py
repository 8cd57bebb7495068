"""KsponSpeech to NeMo manifests and FLAC.

python recipes/prepare_ksponspeech.py --corpus DIR --out DIR
"""

import argparse
import concurrent.futures
import os
from pathlib import Path

from ko_asr.audio import SAMPLE_RATE, pcm_samples, write_flac
from ko_asr.errors import UserError, run_main
from ko_asr.manifest import write_manifest
from ko_asr.text import normalize

SPLITS = ("train", "dev", "eval_clean", "eval_other")


def convert(job: tuple[Path, Path, str]) -> dict:
    source, target, text = job
    samples = pcm_samples(source.read_bytes())
    target.parent.mkdir(parents=True, exist_ok=True)
    write_flac(target, samples)
    return {
        "audio_filepath": str(target),
        "duration": round(len(samples) / SAMPLE_RATE, 6),
        "text": text,
        "sampling_rate": SAMPLE_RATE,
    }


def jobs_of(script: Path, corpus: Path, audio: Path, side: str) -> list[tuple[Path, Path, str]]:
    jobs = []
    for line in script.read_text(encoding="utf-8").splitlines():
        path, raw = line.split(" :: ", 1)
        text = normalize(raw, side=side)
        if text:
            jobs.append((corpus / path, (audio / path).with_suffix(".flac"), text))
    return jobs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--side", choices=["orthographic", "phonetic"], default="orthographic")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    args = parser.parse_args()
    for split in SPLITS:
        script = args.corpus / "scripts" / f"{split}.trn"
        if not script.is_file():
            raise UserError(
                f"no scripts/{split}.trn under {args.corpus}; name the folder that holds scripts/"
            )
        jobs = jobs_of(script, args.corpus, args.out / "audio", args.side)
        with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
            count = write_manifest(args.out / f"{split}.jsonl", pool.map(convert, jobs, chunksize=32))
        print(f"{split}: {count} utterances -> {args.out / f'{split}.jsonl'}")


if __name__ == "__main__":
    run_main(main)
