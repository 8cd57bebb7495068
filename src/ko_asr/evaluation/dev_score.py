"""One figure on a dev manifest, for choosing between weights; recipes/evaluate.py gives all others."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ko_asr.data.manifest import read_manifest
from ko_asr.data.schema import validate_manifest
from ko_asr.errors import UserError
from ko_asr.evaluation.metrics import score
from ko_asr.models.device import device_of
from ko_asr.models.nemo_ctc import NemoCtc


def references(manifest: Path, limit: int | None = None) -> list[dict]:
    """The entries of a manifest whose every line was checked (UserError)."""
    validate_manifest(manifest)
    return list(read_manifest(manifest))[:limit]


def character_errors(model: NemoCtc, entries: Sequence[dict]) -> dict[str, float | list[float]]:
    """CER (spaces counted, plain rules) of a restored model: rate and 95 % bootstrap interval."""
    from tqdm import tqdm

    from ko_asr.models.transcribe import transcribe

    seconds = sum(entry["duration"] for entry in entries)
    with tqdm(
        total=round(seconds), unit="s", unit_scale=True, desc="transcribing", file=sys.stderr, leave=False
    ) as bar:
        heard = transcribe(model, entries, on_batch=bar.update)
    scores = score([entry["text"] for entry in entries], heard, "plain")
    return {"rate": scores.total("cer").rate, "interval95": list(scores.interval("cer"))}


def described(manifest: Path | None, errors: dict | None) -> str:
    """The figure in words, or that nothing was measured."""
    if errors is None or manifest is None:
        return "CER: not measured (give --manifest)"
    low, high = errors["interval95"]
    return f"CER on {manifest}: {errors['rate']:.2%} (95 % interval {low:.2%} to {high:.2%})"


def load_writer(model: Path, entries: Sequence[dict]) -> Any:
    """Restore ``model``; UserError when its vocabulary cannot write the entries."""
    from ko_asr.models.transcribe import check_vocabulary, load_transcriber

    restored = load_transcriber(model, device_of("auto", "CUDA_VISIBLE_DEVICES= in the environment"))
    try:
        check_vocabulary(restored, [entry["text"] for entry in entries])
    except UserError as error:
        raise UserError(f"{model}: {error}") from error
    return restored
