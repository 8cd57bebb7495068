"""Schema that every manifest is held to before training or evaluation reads it.

NeMo and Lhotse check next to nothing: a wrong duration, an empty text or headerless audio shows up as a
silent drop, a crash hours later, or a model that learns nothing.
"""

import itertools
import os
import unicodedata
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ko_asr.data.manifest import numbered_lines
from ko_asr.errors import UserError

LONGEST_SECONDS = 3600.0  # beyond an hour it is milliseconds or samples that were written, not seconds


def _readable(path: str) -> str:
    if path.lower().endswith((".pcm", ".raw")):
        raise ValueError("headerless audio, which NeMo cannot read: prepare it to FLAC first")
    return path


def _clean(text: str) -> str:
    if not text.strip():
        raise ValueError("empty text")
    if not unicodedata.is_normalized("NFC", text):
        raise ValueError("text is not NFC; its syllables would be unknown to the tokenizer")
    return text


class ManifestEntry(BaseModel):
    """Manifest line of one utterance. Further fields (speaker, lang, ...) are allowed and kept.

    ``written`` and ``spoken`` are the sides of a dual transcription, (3시)/(세 시), that ``text`` is not.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    audio_filepath: Annotated[str, Field(min_length=1), AfterValidator(_readable)]
    duration: Annotated[float, Field(gt=0, le=LONGEST_SECONDS, allow_inf_nan=False)]
    text: Annotated[str, AfterValidator(_clean)]
    written: Annotated[str, AfterValidator(_clean)] | None = None
    spoken: Annotated[str, AfterValidator(_clean)] | None = None
    offset: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    sampling_rate: Annotated[int, Field(gt=0)] | None = None


class ManifestSummary(NamedTuple):
    """Totals of a valid manifest."""

    utterances: int
    hours: float
    longest: float  # seconds
    sampling_rates: tuple[int, ...]


class _Folders:
    """Index of existing files that lists each folder once: a network file system answers that far sooner."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}

    def has(self, path: str) -> bool:
        folder, name = os.path.split(path)
        if folder not in self._names:
            try:
                with os.scandir(folder) as entries:
                    self._names[folder] = {entry.name for entry in entries if entry.is_file()}
            except OSError:
                self._names[folder] = set()
        # The second look is for file systems that spell a name in another Unicode form.
        return name in self._names[folder] or os.path.isfile(path)


def validate_manifest(path: str | Path, check_audio: bool = True) -> ManifestSummary:
    """Check every line of a manifest against `ManifestEntry`, and that its audio files exist.

    ``check_audio`` is False for manifests of tarred audio. Raises UserError with file and line for the first
    line that does not hold, for an empty manifest and for missing audio.
    """
    path = Path(path)
    folder, folders = str(path.absolute().parent), _Folders()
    seconds, longest, count = 0.0, 0.0, 0
    rates = set()
    for number, line in numbered_lines(path):
        try:
            entry = ManifestEntry.model_validate_json(line)
        except ValidationError as error:
            raise UserError(f"{path}:{number}: {_explain(error)}") from error
        if check_audio and not folders.has(os.path.join(folder, entry.audio_filepath)):
            raise UserError(
                f"{path}:{number}: no audio file {entry.audio_filepath}; was the folder moved or cut off?"
            )
        seconds += entry.duration
        longest = max(longest, entry.duration)
        rates.add(entry.sampling_rate)
        count += 1
    if not count:
        raise UserError(f"{path} holds no utterance: prepare the corpus again and read its audit")
    return ManifestSummary(count, seconds / 3600, longest, tuple(sorted(r for r in rates if r)))


def _explain(error: ValidationError) -> str:
    """Describe the first three errors in words."""
    parts = []
    for problem in itertools.islice(error.errors(include_url=False), 3):
        field = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{field}: {message}" if field else message)
    return "; ".join(parts)
