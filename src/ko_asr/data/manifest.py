"""NeMo JSONL manifests: one utterance a line, with audio_filepath, duration, text and sampling_rate.

Paths are written relative to the manifest's folder when the audio lies below it, so that a prepared folder
can be moved; NeMo and Lhotse resolve such paths against the manifest as well.
"""

import codecs
import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from ko_asr.errors import UserError
from ko_asr.files import atomic_write


def read_manifest(path: str | Path) -> Iterator[dict]:
    """Yield the entries of a manifest with ``audio_filepath`` made absolute (files are not opened).

    Raises UserError with file and line for a missing file, bytes that are no UTF-8, a line that is no JSON
    object, an entry without audio_filepath, or a text or time that is there but none: null must not become
    the word "None".
    """
    path = Path(path)
    folder = path.absolute().parent
    for number, line in numbered_lines(path):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", error)
            raise UserError(
                f"{path}:{number}: not JSON ({reason}); a manifest has one JSON object a line"
            ) from error
        if not isinstance(entry, dict) or not isinstance(entry.get("audio_filepath"), str):
            raise UserError(f"{path}:{number}: no audio_filepath; is this a NeMo manifest?")
        wrong = next((key for key, right in _FIELDS.items() if key in entry and not right(entry[key])), None)
        if wrong:
            kind = "a text" if wrong in TEXTS else "a finite number"
            shown = json.dumps(entry[wrong], ensure_ascii=False)[:40]
            raise UserError(f"{path}:{number}: {wrong} is {shown}, not {kind}: mend or drop this line")
        entry["audio_filepath"] = str(folder / entry["audio_filepath"])
        yield entry


TEXTS = ("text", "pred_text", "greedy_text", "written", "spoken", "pred_written")


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_FIELDS = dict.fromkeys(TEXTS, _is_text) | dict.fromkeys(("duration", "offset"), _is_number)


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, UTF-8 bytes) of the lines that are not blank, without a byte order mark.

    Raises UserError for a missing file and, with its line, for bytes that are no UTF-8.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"no manifest at {path}; make one with a recipes/prepare_*.py script") from error
    with stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: not UTF-8; NeMo manifests are UTF-8") from error
            yield number, line


def relative_audio_path(audio: str | Path, manifest: str | Path) -> str:
    """Return ``audio`` as written into ``manifest``: relative below the manifest's folder, else absolute."""
    audio, folder = Path(audio).absolute(), Path(manifest).absolute().parent
    return str(audio.relative_to(folder)) if audio.is_relative_to(folder) else str(audio)


def format_entry(entry: dict) -> str:
    """Format one manifest line, Hangul readable."""
    return json.dumps(entry, ensure_ascii=False) + "\n"


def write_manifest(path: str | Path, entries: Iterable[dict]) -> int:
    """Write ``entries`` whole or not at all, audio paths relative to the manifest; return their number.

    ``duration`` is in seconds; give samples / 16000 rounded to 6 digits: exact to the sample.
    """
    count = 0
    with atomic_write(path) as stream:
        for entry in entries:
            stream.write(
                format_entry(entry | {"audio_filepath": relative_audio_path(entry["audio_filepath"], path)})
            )
            count += 1
    return count
