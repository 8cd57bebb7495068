"""Spoken Korean lines to written ones by NVIDIA's own inverse text normaliser, to compare with.

    make setup-nemo-itn
    .nemo-itn/bin/python recipes/nemo_itn.py < spoken.txt > written.txt

Runs in an environment of its own (requirements-nemo-itn.txt), without ko_asr. A line that the normaliser
fails on comes back as it is, as NeMo's own pipelines return it.
"""

import argparse
import os
import sys


def main() -> int:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    written = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the library prints is no answer
    try:
        from nemo_text_processing.inverse_text_normalization.inverse_normalize import InverseNormalizer
    except ImportError as error:
        print(
            f"error: {error}: run `make setup-nemo-itn`, and this with .nemo-itn/bin/python", file=sys.stderr
        )
        return 2
    normaliser = InverseNormalizer(lang="ko")
    for line in sys.stdin.buffer:
        text = line.decode("utf-8").strip()
        try:
            text = normaliser.inverse_normalize(text, verbose=False) if text else ""
        except Exception as error:
            print(f"{type(error).__name__} for {text!r}", file=sys.stderr)
        print(" ".join(text.split()), file=written, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
