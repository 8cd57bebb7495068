"""Transcriptions to training text."""

import re
import unicodedata

_DUAL = re.compile(r"\(([^()]*)\)\s*/?\s*\(([^()]*)\)")
_TAG = re.compile(r"[blonu]/")


def normalize(line: str, side: str = "orthographic") -> str:
    """Training text of one raw transcription line; empty when nothing is left."""
    line = unicodedata.normalize("NFC", line)
    line = _DUAL.sub(r"\1" if side == "orthographic" else r"\2", line)
    line = _TAG.sub(" ", line)
    line = re.sub(r"[/+*.,?!()]", "", line)
    return " ".join(line.split())
