"""Measure long audio: speed beside clips, memory by length, windows' cost in CER, words' lateness.

    python bench/long_audio.py --model X.nemo --manifest data/demo/eval_clean.jsonl

Speed: an hour of the manifest's utterances with pauses of 0.3 to 0.8 s, as one file through what
recipes/transcribe.py does, and cut blindly into clips of 15 s through the same model in batches as large;
both from disk, alternating, best of the rounds. Memory: peak resident memory of recipes/transcribe.py on one
minute and on three hours. CER: each utterance whole, and in windows of left context, chunk and right
context. Lag: the median by which the first word starts after the sound does, and the last one ends after it;
the negative mean of both is what --offset-ms of recipes/transcribe.py takes.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance

ROOT = Path(__file__).resolve().parent
RATE = 16_000
CLIP_SECONDS, BATCH_SECONDS = 15.0, 30.0  # as recipes/transcribe.py on a CPU
SIZES = ((1.0, 0.4, 0.4), (1.0, 0.8, 0.8), (2.0, 0.4, 0.8), (2.0, 1.0, 1.0), (4.0, 2.0, 2.0))  # seconds
SOUND_BELOW_PEAK = 35.0  # dB: the level of a 10 ms frame at which an utterance begins and ends

Utterance = tuple[str, np.ndarray]


def utterances(manifest: Path, limit: int) -> list[Utterance]:
    entries = list(read_manifest(manifest))[:limit]
    if not entries:
        raise UserError(f"{manifest} holds no utterance: prepare the corpus again")
    return [(e["text"], soundfile.read(e["audio_filepath"], dtype="float32")[0]) for e in entries]


def write_long(path: Path, spoken: list[Utterance], seconds: float) -> None:
    """Write ``seconds`` of the utterances, over and over, with faintly noisy pauses between them."""
    rng, left, number = np.random.default_rng(0), int(seconds * RATE), 0
    with soundfile.SoundFile(path, "w", RATE, 1, "PCM_16") as out:
        while left > 0:
            pause = 1e-4 * rng.standard_normal(int(rng.uniform(0.3, 0.8) * RATE))
            part = np.r_[spoken[number % len(spoken)][1], pause][:left]
            out.write(part)
            left, number = left - len(part), number + 1


def clips_seconds(model: Any, path: Path) -> float:
    """Time the file in clips of 15 s, decoded to words as well."""
    from ko_asr.runtime.ctc import collapse
    from ko_asr.runtime.results import words

    started = time.perf_counter()
    size, batch = int(CLIP_SECONDS * RATE), int(BATCH_SECONDS / CLIP_SECONDS)
    with soundfile.SoundFile(path) as audio:
        while clips := [c for c in (audio.read(size, dtype="float32") for _ in range(batch)) if len(c)]:
            for frames in model(clips):
                tokens = collapse(frames.ids[:, 0], model.blank_id, frames.log_probs[:, 0])
                words(tokens, model.vocabulary, model.frame_ms)
    return time.perf_counter() - started


def speed(model: Any, path: Path, seconds: float, rounds: int) -> dict[str, float]:
    from ko_asr.recognition.files import transcribe_file

    whole, clips = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        transcribe_file(model, path, batch_seconds=BATCH_SECONDS)
        whole.append(time.perf_counter() - started)
        clips.append(clips_seconds(model, path))
    figures = {
        "audio_seconds": seconds,
        "rtfx_file": seconds / min(whole),
        "rtfx_clips": seconds / min(clips),
    }
    return figures | {"ratio": min(clips) / min(whole)}


def peak_megabytes(model: Path, audio: Path) -> float:
    """Measure the peak resident memory of recipes/transcribe.py on one file."""
    command = [sys.executable, str(ROOT.parent / "recipes" / "transcribe.py"), str(audio)]
    command += ["--model", str(model), "--output", str(audio.with_suffix(".txt"))]
    child = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(child, 0)
    if status:
        raise UserError(f"recipes/transcribe.py failed on {audio}")
    return usage.ru_maxrss / 1024


def memory(model: Path, folder: Path, spoken: list[Utterance], hours: float) -> dict[str, float]:
    figures = {}
    for name, seconds in (("1_minute", 60.0), ("long", 3600 * hours)):
        path = folder / f"{name}.wav"
        write_long(path, spoken, seconds)
        figures[name] = peak_megabytes(model, path)
    return {"hours": hours, **figures, "growth": figures["long"] - figures["1_minute"]}


def context_costs(model: Any, spoken: list[Utterance]) -> dict[str, Any]:
    """Compute the CER of full context, and of windows of each size."""
    from ko_asr.evaluation.metrics import score
    from ko_asr.recognition.buffered import BufferedRecognizer
    from ko_asr.runtime.ctc_decoder import DecoderSettings
    from ko_asr.runtime.greedy import GreedyDecoder

    def decoder() -> GreedyDecoder:
        return GreedyDecoder(DecoderSettings(model.vocabulary, model.blank_id, model.frame_ms))

    def cer(texts: list[str]) -> float:
        return score([text for text, _ in spoken], texts, "plain").total("cer").rate

    def full(samples: np.ndarray) -> str:
        whole = decoder()
        whole.accept(*model([samples])[0])
        return whole.finish()[-1].text

    rows = []
    for left, chunk, right in SIZES:
        recognizer = BufferedRecognizer(model, left, chunk, right)
        texts = []
        for _, samples in spoken:
            session = recognizer.open(decoder())
            texts.append((session.push(samples) + session.flush())[-1].text)
        rows.append({"left": left, "chunk": chunk, "right": right, "cer": cer(texts)})
    return {"full_context_cer": cer([full(samples) for _, samples in spoken]), "windows": rows}


def lag(model: Any, spoken: list[Utterance]) -> dict[str, float]:
    """Return the median delay in ms of the first word's start and the last word's end, and the offset."""
    from ko_asr.runtime.ctc import collapse
    from ko_asr.runtime.results import words

    starts, ends = [], []
    for _, samples in spoken:
        frames = model([samples])[0]
        tokens = collapse(frames.ids[:, 0], model.blank_id, frames.log_probs[:, 0])
        found = words(tokens, model.vocabulary, model.frame_ms)
        blocks = samples[: len(samples) // 160 * 160].reshape(-1, 160)
        level = 10 * np.log10((blocks**2).mean(axis=1) + 1e-12)
        sound = np.flatnonzero(level > level.max() - SOUND_BELOW_PEAK)
        if found:
            starts.append(found[0].start_ms - 10 * int(sound[0]))
            ends.append(found[-1].end_ms - 10 * int(sound[-1] + 1))
    start, end = float(np.median(starts)), float(np.median(ends))
    return {"start_ms": start, "end_ms": end, "offset_ms": -(start + end) / 2}


def show(result: dict[str, Any]) -> None:
    fast, memory = result["speed"], result["memory_mb"]
    print(f"one file of {fast['audio_seconds']:.0f} s: RTFx {fast['rtfx_file']:.0f}; clips of 15 s: ", end="")
    print(f"{fast['rtfx_clips']:.0f}; ratio {fast['ratio']:.2f}")
    print(f"peak memory: {memory['1_minute']:.0f} MB for 1 minute, {memory['long']:.0f} MB for ", end="")
    print(f"{memory['hours']:g} h: +{memory['growth']:.0f} MB")
    print(f"left  chunk  right    CER (full context {result['contexts']['full_context_cer']:.2%})")
    for row in result["contexts"]["windows"]:
        print(f"{row['left']:>4g} {row['chunk']:>6g} {row['right']:>6g} {row['cer']:>7.2%}")
    late = result["lag"]
    print(f"words start {late['start_ms']:.0f} ms late and end {late['end_ms']:.0f} ms late: ", end="")
    print(f"--offset-ms {late['offset_ms']:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a .nemo file")
    parser.add_argument("--manifest", type=Path, required=True, help="utterances to make the audio of")
    parser.add_argument("--utterances", type=int, default=50, help="how many of them (default 50)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of the speed test (default 3600)")
    parser.add_argument("--hours", type=float, default=3.0, help="of the memory test (default 3)")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "long_audio.json")
    args = parser.parse_args()
    from ko_asr.models.frame_model import FrameModel

    spoken = utterances(args.manifest, args.utterances)
    model = FrameModel.load(args.model, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speed.wav"
        write_long(path, spoken, args.seconds)
        result: dict[str, Any] = {
            "model": args.model.name,
            "manifest": args.manifest.name,
            "speed": speed(model, path, args.seconds, args.rounds),
            "contexts": context_costs(model, spoken),
            "lag": lag(model, spoken),
            "memory_mb": memory(args.model, Path(folder), spoken, args.hours),
        } | provenance(("torch", "nemo_toolkit", "numpy", "soundfile", "soxr"))
    show(result)
    with atomic_write(args.out) as stream:
        json.dump(result, stream, indent=1)
        stream.write("\n")
    print(f"wrote {args.out}")


if __name__ == "__main__":
    run_main(main)
