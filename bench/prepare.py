"""Time the preparation of a corpus beside plain WAV copies and Lhotse on the same disk in the same run:

    python bench/prepare.py [--utterances 5000] [--rounds 2] [--folder DIR] [--out bench/results/prepare.json]
    python bench/prepare.py --lines 620000        # memory: a script as long as KsponSpeech's
    python bench/prepare.py --text                # normalisation, lines a second

Speech of 3 to 5 s from espeak-ng in KsponSpeech's layout. Each case runs once a round, cases take turns, and
the best round counts, since other work on the machine only ever adds time.

Two cases bound what any preparation into FLAC files can reach: encoding alone, in memory, and writing FLAC
that was encoded before the clock started. Their times add up to the least that one core needs.
"""

import argparse
import functools
import io
import json
import os
import resource
import shutil
import tempfile
import time
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ko_asr.audio.corpus_audio import flac_bytes
from ko_asr.audio.espeak import VOICES, synthesize
from ko_asr.corpora.ksponspeech import KsponSpeech
from ko_asr.data.audit import write_audit
from ko_asr.data.file_store import CHUNK, FlacFiles
from ko_asr.data.prepare import prepare
from ko_asr.data.workers import ordered_map
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.text.normalizer import Normalizer

MEMORY = Path("/dev/shm")
TEXT = "그/ 나는 (20년)/(이십 년) 전에 학교에서 밥을 먹었어. b/"
LINES = (
    "n/ 아 몬 소리야, 그건 또. b/",
    "나는 (20년)/(이십 년) 전에 그/ 뭐 그+ 그래서 학교를 다녔거든? 근데 거기가 너무 좋았어.",
    "o/ 아니 진짜? l/",
    "어/ 그러니까 우리가 이번 주말에 만나기로 했는데, 비가 온다고 해서 다음 주로 미뤘어.",
)


def write_corpus(root: Path, utterances: int) -> None:
    """Write a train split of ``utterances`` files of 3 to 5 s: 64 spoken sentences, cut and scaled anew."""
    words = "오늘 아침에 학교 앞에서 친구를 만나서 밥을 먹고 천천히 걸어서 도서관에 갔습니다."
    voices = [synthesize(words, VOICES[i % len(VOICES)], 140 + i, 30 + i // 2) for i in range(64)]
    rng = np.random.default_rng(0)
    lines = []
    for number in range(1, utterances + 1):
        folder = f"KsponSpeech_01/KsponSpeech_{(number - 1) // 1000 + 1:04d}"
        path = f"{folder}/KsponSpeech_{number:06d}.pcm"
        samples = voices[number % 64][: int(rng.uniform(3, 5) * 16_000)] * rng.uniform(0.2, 0.8) * 32767
        (root / folder).mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(samples.astype("<i2").tobytes())
        lines.append(f"{path} :: {TEXT}\n")
    (root / "train.trn").write_text("".join(lines), encoding="utf-8")


def each_pcm(write: Callable[[Path, Path], None], corpus: Path, out: Path, jobs: int) -> None:
    """Call ``write(pcm, folder)`` for every PCM file of the corpus, in ``jobs`` processes."""
    tasks = []
    for folder in sorted((corpus / "KsponSpeech_01").iterdir()):
        (out / folder.name).mkdir(parents=True)
        files = sorted(folder.glob("*.pcm"))
        tasks += [(write, files[i : i + CHUNK], out / folder.name) for i in range(0, len(files), CHUNK)]
    with ordered_map(jobs) as run:
        for _ in run(write_chunk, tasks):
            pass


def write_chunk(task: tuple[Callable[[Path, Path], None], list[Path], Path]) -> None:
    write, files, folder = task
    for pcm in files:
        write(pcm, folder)


def copy_as_wav(pcm: Path, folder: Path) -> None:
    """Do the least that any preparation does: read each PCM, write it with a header."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(16_000)
        stream.writeframes(pcm.read_bytes())
    (folder / f"{pcm.stem}.wav").write_bytes(buffer.getvalue())


_encoded: dict[str, bytes] = {}  # by file name; worker processes inherit it when they are forked


def write_encoded(pcm: Path, folder: Path) -> None:
    """Write files that need no encoding: the cost of creating them."""
    (folder / f"{pcm.stem}.flac").write_bytes(_encoded[pcm.stem])


def encode(corpus: Path) -> float:
    """Fill `_encoded`; return the utterances a second that one core encodes."""
    samples = {p.stem: np.fromfile(p, "<i2") for p in (corpus / "KsponSpeech_01").rglob("*.pcm")}
    start = time.perf_counter()
    for name, values in samples.items():
        _encoded[name] = flac_bytes(values, FlacFiles.effort)
    return len(samples) / (time.perf_counter() - start)


def ours(corpus: Path, out: Path, jobs: int) -> None:
    results = prepare(KsponSpeech(corpus), out, Normalizer(), ["train"], jobs)
    assert results[0].kept == results[0].lines, results[0].rejected


def lhotse(corpus: Path, out: Path) -> None:
    from lhotse.recipes.ksponspeech import prepare_ksponspeech

    prepare_ksponspeech(corpus, "train", out, num_jobs=1)
    for flac in corpus.rglob("*.flac"):  # it writes into the corpus; the next round starts clean
        flac.unlink()


def timed(work: Callable[[Path, Path], None], corpus: Path, folder: Path) -> float:
    out = folder / "out"
    os.sync()
    start = time.perf_counter()
    work(corpus, out)
    os.sync()  # until the disk has it: the page cache takes anything
    seconds = time.perf_counter() - start
    shutil.rmtree(out)
    return seconds


def speed(utterances: int, rounds: int, folder: Path) -> dict[str, float]:
    """Measure utterances a second of each case, best of ``rounds``."""
    cases: dict[str, tuple[Path, Callable[[Path, Path], None]]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as disk, tempfile.TemporaryDirectory(dir=MEMORY) as memory:
        for place in (Path(disk), Path(memory)):
            write_corpus(place / "corpus", utterances)
        for jobs, named in ((1, "1 process"), (2, "2 processes")):
            for case, write in (("WAV copies", copy_as_wav), ("encoded FLAC", write_encoded)):
                cases[f"{case}, {named}, disk"] = (Path(disk), functools.partial(each_pcm, write, jobs=jobs))
            for place, where in ((Path(disk), "disk"), (Path(memory), "memory")):
                cases[f"ours, {named}, {where}"] = (place, functools.partial(ours, jobs=jobs))
        cases["Lhotse, 1 process, disk"] = (Path(disk), lhotse)
        best = dict.fromkeys(cases, 0.0)
        encoding = 0.0
        for _ in range(rounds):
            encoding = max(encoding, encode(Path(memory) / "corpus"))
            for name, (place, work) in cases.items():
                best[name] = max(best[name], utterances / timed(work, place / "corpus", place))
    return {"FLAC encoding alone, 1 process": encoding} | best


def report_speed(rates: dict[str, float]) -> dict[str, float]:
    one, two = "1 process, disk", "2 processes, disk"
    wav, encoding = rates[f"WAV copies, {one}"], rates["FLAC encoding alone, 1 process"]
    bounds = {n: n / (1 / encoding + 1 / rates[f"encoded FLAC, {one}"]) for n in (1, 2)}
    ratios = {
        "ours, 2 processes / WAV copies, 1 process": rates[f"ours, {two}"] / wav,
        "ours / WAV copies, 2 processes each": rates[f"ours, {two}"] / rates[f"WAV copies, {two}"],
        "ours / WAV copies, 1 process each": rates[f"ours, {one}"] / wav,
        "bound, 2 processes / WAV copies, 1 process": bounds[2] / wav,
        "ours / bound, 1 process": rates[f"ours, {one}"] / bounds[1],
        "ours / bound, 2 processes": rates[f"ours, {two}"] / bounds[2],
        "ours / Lhotse, 1 process": rates[f"ours, {one}"] / rates[f"Lhotse, {one}"],
        "2 processes / 1, memory": rates["ours, 2 processes, memory"] / rates["ours, 1 process, memory"],
    }
    for name, rate in rates.items():
        print(f"{name:42} {rate:8.0f} utterances/s")
    for name, ratio in ratios.items():
        print(f"{name:42} {ratio:8.2f}")
    print(
        f"bound: libFLAC takes {1000 / encoding:.2f} ms an utterance and creating its file "
        f"{1000 / rates[f'encoded FLAC, {one}']:.2f} ms, so two cores make at most {bounds[2]:.0f} a second"
    )
    return ratios


def memory(lines: int) -> dict[str, float]:
    """Measure peak memory and speed of this process with a script of ``lines`` lines, all of them kept.

    One short PCM file is linked under all names: 620,000 real ones would measure the disk.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        root = Path(name)
        (root / "corpus" / "KsponSpeech_01").mkdir(parents=True)
        source = root / "source.pcm"
        source.write_bytes(
            (synthesize("네 맞아요", "ko", 200, 50)[2000:6000] * 20_000).astype("<i2").tobytes()
        )
        with (root / "corpus" / "train.trn").open("w", encoding="utf-8") as script:
            for number in range(lines):
                folder = f"KsponSpeech_01/KsponSpeech_{number // 1000 + 1:04d}"
                if number % 1000 == 0:
                    (root / "corpus" / folder).mkdir()
                path = f"{folder}/KsponSpeech_{number + 1:06d}.pcm"
                os.link(source, root / "corpus" / path)
                script.write(f"{path} :: {LINES[number % 4]} {number}\n")
        for split in ("dev", "eval_clean"):  # so that the audit has leakage to look for
            folder = f"KsponSpeech_eval/{split}"
            (root / "corpus" / folder).mkdir(parents=True)
            with (root / "corpus" / f"{split}.trn").open("w", encoding="utf-8") as script:
                for number in range(lines // 200):
                    os.link(source, root / "corpus" / folder / f"{number}.pcm")
                    script.write(f"{folder}/{number}.pcm :: {LINES[number % 4]} 음 {number}\n")
        corpus, normalizer = KsponSpeech(root / "corpus"), Normalizer()
        start = time.perf_counter()
        results = prepare(corpus, root / "out", normalizer, corpus.splits(), 2)
        seconds = time.perf_counter() - start
        audit = write_audit(corpus, results, normalizer, root / "out")
        audit_seconds = time.perf_counter() - start - seconds
        assert audit["splits"]["train"]["kept"] == lines
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{lines} lines in {seconds:.0f} s ({lines / seconds:.0f}/s), audit {audit_seconds:.0f} s, "
        f"peak of the parent {peak:.0f} MB"
    )
    return {"lines": lines, "seconds": seconds, "audit_seconds": audit_seconds, "peak_mb": peak}


def text(rounds: int) -> dict[str, float]:
    """Measure lines a second on one core."""
    lines = [line for line in LINES for _ in range(25_000)]
    rates = {}
    for side in ("orthographic", "phonetic"):
        normalizer = Normalizer(side=side)
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            for line in lines:
                normalizer.clean(line)
            seconds.append(time.perf_counter() - start)
        rates[side] = len(lines) / min(seconds)
        print(f"normalisation, {side:13} {rates[side]:10.0f} lines/s")
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure"
    )
    parser.add_argument("--lines", type=int, help="measure memory with a script of so many lines instead")
    parser.add_argument("--text", action="store_true", help="measure normalisation instead")
    parser.add_argument("--out", type=Path, default=Path("bench/results/prepare.json"))
    args = parser.parse_args()
    if not MEMORY.is_dir():
        raise UserError(f"no {MEMORY}: this benchmark needs memory-backed storage")
    result: dict = {"provenance": provenance(("numpy", "soundfile", "lhotse"))}
    if args.text:
        result["normalisation_lines_per_second"] = text(args.rounds)
    elif args.lines:
        result["memory"] = memory(args.lines)
    else:
        result["utterances_per_second"] = speed(args.utterances, args.rounds, args.folder)
        result["ratios"] = report_speed(result["utterances_per_second"])
    result["load_average"] = os.getloadavg()  # above the number of cores, two processes cannot gain
    with atomic_write(args.out) as stream:
        json.dump(result, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
