"""Write spoken Korean as it is read: lines on standard input to lines on standard output.

    echo '이천이십사년 삼월 오일에 만 오천 원' | python recipes/finish_text.py   # 2024년 3월 5일에 15,000원
    python recipes/finish_text.py --style commas=none --style time=colon < spoken.txt > written.txt
    python recipes/finish_text.py --json < spoken.txt                     # one object a line
    echo '3시 30분에 15,000원' | python recipes/finish_text.py --reverse  # 세 시 삼십 분에 만 오천 원

Each line comes out as soon as it has come in. With --json it is an object: `spoken`, `text`, its `words`
with the numbers of the spoken words that each came from (`sources`), the numbers of those that were
`dropped`, and of the written words that begin `sentences` and `paragraphs`. Words are counted from 0.

A line that is not UTF-8, holds a NUL or is longer than 1 MiB is named on standard error and comes out empty,
so that the lines stay in step; the others go on, and the exit status is 1.
"""

import argparse
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from typing import BinaryIO

from ko_asr.errors import UserError, run_main
from ko_asr.finishing import command
from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.spoken import spoken

LONGEST = 1 << 20  # bytes of a line


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="an object a line, with words and their sources")
    parser.add_argument(
        "--reverse", action="store_true", help="from written to spoken; takes no other option"
    )
    command.add_arguments(parser, always=True)
    args = parser.parse_args()
    args.finish = command.read_options(args)
    if args.reverse and (args.json or args.finish != FinishOptions()):
        raise UserError("--reverse takes no other option: it reads one written form")
    if args.paragraphs and not args.json:
        raise UserError("--paragraphs needs --json here: each line stays a line")
    return args


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yield lines; of one that is longer than LONGEST, only its beginning."""
    while line := stream.readline(LONGEST + 1):
        yield line
        while len(line) > LONGEST and not line.endswith(b"\n"):
            line = stream.readline(LONGEST + 1)


def decoded(line: bytes, number: int) -> str:
    """The text of a line in composed syllables (NFC). UserError for what is no text."""
    if len(line) > LONGEST:
        raise UserError(f"line {number} is longer than 1 MiB: put each sentence on a line of its own")
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"line {number} is not UTF-8 (byte {error.start + 1} of it): convert the text first, as in "
            "iconv -f CP949 -t UTF-8, or -f UTF-16"
        ) from error
    if "\0" in text:
        raise UserError(f"line {number} holds a NUL: if it is UTF-16, convert it first, with iconv -t UTF-8")
    return unicodedata.normalize("NFC", text.rstrip("\r\n"))


def conversion(args: argparse.Namespace) -> Callable[[str], str]:
    """What is done to each line."""
    if args.reverse:
        return spoken
    finisher = Finisher(args.finish)

    def in_json(text: str) -> str:
        return json.dumps({"spoken": " ".join(text.split())} | finisher(text).to_json(), ensure_ascii=False)

    return in_json if args.json else lambda text: finisher(text).text


def run(args: argparse.Namespace) -> int:
    convert = conversion(args)
    if sys.stdin is None or sys.stdout is None:
        raise UserError("standard input or output is closed: finish_text.py < spoken.txt > written.txt")
    if sys.stdin.isatty():
        print("reading lines; end with Ctrl-D", file=sys.stderr)
    failed = 0
    for number, line in enumerate(lines(sys.stdin.buffer), 1):
        try:
            text = convert(decoded(line, number))
        except UserError as error:
            failed += 1
            text = json.dumps({"error": str(error)}, ensure_ascii=False) if args.json else ""
            print(f"error: {error}", file=sys.stderr)
        sys.stdout.buffer.write(text.encode() + b"\n")
        sys.stdout.buffer.flush()  # whoever reads a live stream's lines is waiting for this one
    if failed:
        print(f"{failed} line{'s' * (failed > 1)} failed: see the errors above", file=sys.stderr)
    return 1 if failed else 0


def main() -> int:
    args = arguments()
    try:
        return run(args)
    except BrokenPipeError:  # the reader has what it wants, as head has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains as it ends
        return 0


if __name__ == "__main__":
    run_main(main)
