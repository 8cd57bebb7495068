"""Transcribe audio files of any length with a .nemo, in memory that does not grow with them.

    python recipes/transcribe.py meeting.mp3                                    # text on standard output
    python recipes/transcribe.py lecture.flac --out srt --output lecture.srt
    python recipes/transcribe.py calls/*.wav --out jsonl --output-dir transcripts
    python recipes/transcribe.py lecture.flac --out vtt --written --punctuation # 2024년 3월 5일에 15,000원

Any format, rate and channel count that libsndfile reads; channels are averaged, other rates resampled. Audio
is cut at silences, so any EncDecCTCModelBPE does: full-context or cache-aware, the latter with the attention
of --att-context. Formats: txt (an utterance a line), jsonl (an utterance a line, with words and syllables in
ms and their confidence), json (one object a file), srt and vtt (subtitles, by the rules at the top of
`src/ko_asr/recognition/cues.py`). With --written txt, srt and vtt hold the written form, jsonl and json both.

With --output-dir a file whose output is there, and newer than the audio, is skipped: run the same command
again to go on. A file that fails is named, the others go on, and the exit status is 1.
"""

import argparse
import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

from ko_asr.audio.stream import AudioStream
from ko_asr.errors import UserError, printable, run_main
from ko_asr.files import atomic_write
from ko_asr.finishing import command
from ko_asr.models.device import device_of
from ko_asr.models.nemo_file import check_nemo_file, newest_model
from ko_asr.recognition import search
from ko_asr.recognition.cues import RULES, CueRules
from ko_asr.recognition.subtitles import FORMATS, SUBTITLES
from ko_asr.recognition.transcript import Transcript
from ko_asr.runtime.ctc_decoder import DecoderSettings

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
LONGEST_STEM = 200  # bytes of a file's name (of at most 255), so that endings fit


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", type=Path, help="audio files")
    add("--model", type=Path, help="a .nemo file (default: the newest under experiments/)")
    add("--out", choices=FORMATS, default="txt", help="format (default txt)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, help="file to write, for one FILE (default: standard output)")
    where.add_argument("--output-dir", type=Path, help="folder for FILE's name with the format's ending")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--att-context", metavar="L,R", help="attention context of a cache-aware model, such as 70,6")
    add("--longest", type=float, default=20.0, help="seconds of audio in one piece (default 20)")
    add("--batch-seconds", type=float, help="padded seconds at once (default 30, on a GPU 600)")
    add("--offset-ms", type=float, default=0.0, help="add this to every time, as bench/long_audio.py says")
    add("--overwrite", action="store_true", help="do not skip files whose output is there")
    add("--line-length", type=float, default=RULES.line, help="Hangul in a line of subtitles (default 16)")
    add("--lines", type=int, choices=(1, 2), default=RULES.lines, help="lines of a subtitle (default 2)")
    search.add_arguments(parser)
    command.add_arguments(parser)
    args = parser.parse_args()
    if not 1 <= args.line_length <= 1000:
        parser.error("--line-length is 1 to 1000")
    if args.longest < 2 or (args.batch_seconds is not None and args.batch_seconds <= 0):
        parser.error("--longest must be at least 2 and --batch-seconds positive")
    if len(args.files) > 1 and not args.output_dir:
        parser.error("several files need --output-dir")
    return args


def short(stem: str) -> str:
    """Return the name without an ending, or its beginning and a hash where an ending would not fit on it."""
    encoded = os.fsencode(stem)
    if len(encoded) <= LONGEST_STEM:
        return stem
    return f"{encoded[: LONGEST_STEM - 9].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:8]}"


def outputs(args: argparse.Namespace) -> dict[Path, Path | None]:
    """Map each file to its transcript, None for standard output. UserError when two would be one file."""
    files = list(dict.fromkeys(args.files))
    if not args.output_dir:
        return {files[0]: args.output}
    found: dict[Path, Path] = {}
    for file in files:
        target = args.output_dir / f"{short(file.stem)}.{args.out}"
        if other := found.get(target):
            raise UserError(f"{other} and {file} would both be written to {target}: transcribe them apart")
        found[target] = file
    return {file: target for target, file in found.items()}


def finished(file: Path, target: Path | None) -> bool:
    """Tell whether the transcript is there and not older than the audio."""
    try:
        return target is not None and target.stat().st_mtime >= file.stat().st_mtime
    except OSError:
        return False


def durations(files: list[Path]) -> tuple[dict[Path, float], dict[Path, str]]:
    """Return the seconds of each file that opens, and the reason for each that does not."""
    seconds, failed = {}, {}
    for file in files:
        try:
            with AudioStream(file) as audio:
                seconds[file] = audio.duration
        except (UserError, OSError) as error:
            failed[file] = str(error)
    return seconds, failed


def load(args: argparse.Namespace, path: Path) -> tuple[Any, float]:
    """Load the model; return it with the padded seconds that it takes at once."""
    from ko_asr.models.frame_model import FrameModel

    device = device_of(args.device)
    model = FrameModel.load(path, device, args.att_context, search.Search.of(args).top)
    if args.longest + 2 > model.longest_seconds():
        raise UserError(
            f"--longest is more than the model's {model.longest_seconds():.0f} s positional table"
        )
    return model, args.batch_seconds or (600.0 if device.startswith("cuda") else 30.0)


def rendered(transcript: Transcript, args: argparse.Namespace) -> str:
    if args.out in SUBTITLES:
        return SUBTITLES[args.out](transcript, rules=CueRules(args.line_length, args.lines))
    return FORMATS[args.out](transcript)


def write(text: str, target: Path | None) -> None:
    if target is None:
        sys.stdout.write(text)
        return
    with atomic_write(target) as stream:
        stream.write(text)


def run(args: argparse.Namespace, todo: dict[Path, Path | None]) -> int:
    """Transcribe the files; return the number that failed."""
    finish = command.read_options(args)
    seconds, failed = durations(list(todo))
    for reason in failed.values():
        print(f"error: {printable(reason)}", file=sys.stderr)
    if not seconds:
        return len(failed)
    path = args.model or newest_model(EXPERIMENTS)
    check_nemo_file(path)
    print(f"loading {path}", file=sys.stderr, flush=True)
    model, batch_seconds = load(args, path)
    how = search.Search.of(args)
    settings = DecoderSettings(model.vocabulary, model.blank_id, model.frame_ms)
    how.decoder(settings, finish)  # or say now what is wrong
    from tqdm import tqdm

    from ko_asr.recognition.files import transcribe_file

    started, done = time.perf_counter(), 0.0
    with tqdm(total=round(sum(seconds.values())), unit="s", unit_scale=True, desc="transcribing") as bar:
        for file in seconds:
            try:
                transcript = transcribe_file(
                    model, file, longest=args.longest, batch_seconds=batch_seconds,
                    offset_ms=args.offset_ms, on_progress=bar.update, search=how, written=finish,
                )  # fmt: skip
                write(rendered(transcript, args), todo[file])
                done += transcript.duration
            except (UserError, OSError) as error:
                failed[file] = str(error)
                bar.write(f"error: {printable(error)}", file=sys.stderr)
    wall = time.perf_counter() - started
    where = args.output_dir or args.output or "standard output"
    print(
        f"wrote {len(todo) - len(failed)} transcripts ({done:.0f} s of audio in {wall:.1f} s, "
        f"RTFx {done / wall:.0f}) to {where}",
        file=sys.stderr,
    )
    return len(failed)


def main() -> int:
    args = arguments()
    todo = outputs(args)
    if args.output_dir:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(args.output_dir, os.W_OK):
            raise UserError(f"cannot write in {args.output_dir}: name another --output-dir")
        if not args.overwrite:
            skipped = [file for file, target in todo.items() if finished(file, target)]
            todo = {file: target for file, target in todo.items() if file not in skipped}
            if skipped:
                print(f"{len(skipped)} files are done already (--overwrite does them again)", file=sys.stderr)
    failed = run(args, todo) if todo else 0
    if failed:
        print(f"{failed} files failed: see the errors above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    run_main(main)
