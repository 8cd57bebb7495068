"""From transcripts to a scorecard: rates with intervals, slices, confusions, and comparison of two systems.

Pure functions of manifest entries that carry ``text`` and ``pred_text``; no torch and no NeMo.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ko_asr.data.manifest import TEXTS, read_manifest
from ko_asr.errors import UserError
from ko_asr.evaluation.metrics import (
    METRICS,
    PROFILES,
    Scores,
    bootstrap_interval,
    headline_counts,
    paired_bootstrap,
    score,
)
from ko_asr.runtime.hangul import is_syllable

DURATION_EDGES = (0, 1, 2, 3, 5, 8, 12, 20, math.inf)  # seconds
SPEAKING_RATE_EDGES = (0, 3, 4, 5, 6, 7, 8, math.inf)  # syllables a second
_NO_SLICES = {*TEXTS, "audio_filepath", "duration", "offset", "sampling_rate", "cer", "wer", "id"}
_MOST_NUMBERS = 12  # a number with more values is a measure, not a category
_MOST_VALUES = 60  # a field with more values is an identifier, not a group
METRIC_NAMES = {
    "cer": "CER, spaces counted",
    "cer_no_spaces": "CER, spaces removed",
    "wer": "WER (어절)",
    "swer": "sWER, space-normalised",
    "jamo": "jamo",
    "onset": "onset (초성)",
    "nucleus": "nucleus (중성)",
    "coda": "coda (종성, 받침)",
}


def finite(number: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return number if math.isfinite(number) else None


def metric_table(scores: Scores, groups: Sequence | None = None) -> dict[str, dict]:
    """Rate, 95 % interval, S, D, I and reference units of every metric."""
    table = {}
    for metric in METRICS:
        counts = scores.total(metric)
        low, high = scores.interval(metric, groups=groups)
        table[metric] = {
            "rate": finite(counts.rate),
            "interval95": [finite(low), finite(high)],
            "substitutions": counts.substitutions,
            "deletions": counts.deletions,
            "insertions": counts.insertions,
            "reference": counts.reference,
        }
    return table


def syllables_per_second(entry: dict) -> float:
    """Speaking rate of an entry, by the syllables of its reference text."""
    return sum(map(is_syllable, entry["text"])) / max(entry["duration"], 1e-6)


def _binned(values: Sequence[float], edges: Sequence[float], unit: str) -> list[str]:
    labels = [
        f"{low:g}+ {unit}" if math.isinf(high) else f"{low:g}-{high:g} {unit}"
        for low, high in itertools.pairwise(edges)
    ]
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(labels) - 1)
    return [labels[place] for place in places]


def _grouped(values: Sequence) -> list[str]:
    """Values of one field as labels; numbers of many values as the quarter of the utterances they are in."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(values) or len(set(numbers)) <= _MOST_NUMBERS:
        return ["(none)" if value is None else str(value) for value in values]
    edges = np.unique(np.quantile(numbers, (0, 0.25, 0.5, 0.75, 1)))
    places = np.clip(np.searchsorted(edges, numbers, side="right") - 1, 0, len(edges) - 2)
    return [f"{edges[place]:.4g} to {edges[place + 1]:.4g}" for place in places]


def slice_labels(entries: Sequence[dict], fields: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Slices to report: name -> label of each entry. Duration and speaking rate, and manifest fields.

    Without ``fields``, every field that groups the utterances (2 to 60 values) is taken. Numbers of more
    than 12 values (age, signal-to-noise ratio) are put into quarters. UserError when an asked-for field is
    in no entry.
    """
    labels = {
        "duration": _binned([e["duration"] for e in entries], DURATION_EDGES, "s"),
        "speaking rate": _binned([*map(syllables_per_second, entries)], SPEAKING_RATE_EDGES, "syllables/s"),
    }
    present = sorted({key for entry in entries for key in entry} - _NO_SLICES)
    for name in present if fields is None else fields:
        if name not in present:
            raise UserError(
                f"no utterance of the manifest has the field '{name}'; it has {', '.join(present) or 'none'}"
            )
        values = _grouped([entry.get(name) for entry in entries])
        if fields is not None or 2 <= len(set(values)) <= _MOST_VALUES:
            labels[name] = values
    return labels


def bootstrap_groups(entries: Sequence[dict], field: str | None) -> list[str] | None:
    """The group of each entry that intervals resample whole; None without ``field``.

    UserError when the field makes fewer than two groups: their interval would have no width.
    """
    if field is None:
        return None
    values = [entry.get(field) for entry in entries]
    groups = ["" if value is None else str(value) for value in values]
    if len(set(groups)) < 2:
        raise UserError(
            f"the field '{field}' does not divide the utterances: name one that differs, such as speaker"
        )
    return groups


def _label_order(label: str) -> tuple:
    number = label.split(" to ")[0].split("-")[0].split("+")[0]
    return (0, float(number), label) if number.replace(".", "", 1).isdigit() else (1, 0.0, label)


def slice_table(scores: Scores, labels: Sequence[str]) -> list[dict]:
    """Rates of each group of utterances: headline CER with its interval, WER, coda, size."""
    metric = scores.headline()
    errors, reference = scores.errors(metric), scores.counts[metric][:, 3]
    rows = []
    every = np.array(labels)
    for label in sorted(set(labels), key=_label_order):
        which = every == label
        low, high = _interval(errors[which], reference[which])
        rows.append(
            {
                "value": label,
                "utterances": int(which.sum()),
                "cer": finite(scores.total(metric, which).rate),
                "interval95": [finite(low), finite(high)],
                "wer": finite(scores.total("wer", which).rate),
                "coda": finite(scores.total("coda", which).rate),
            }
        )
    return rows


def _interval(errors: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    return bootstrap_interval(errors, reference, samples=400)


def _most_common(confusions: Counter, number: int) -> list[list]:
    ranked = sorted(confusions.items(), key=lambda item: (-item[1], item[0]))
    return [[*key, count] for key, count in ranked[:number]]


def scorecard(
    entries: Sequence[dict],
    profile: str = "plain",
    fields: Sequence[str] | None = None,
    bootstrap_by: str | None = None,
) -> tuple[dict, Scores]:
    """Score entries with ``text`` and ``pred_text``: the JSON-ready figures, and the counts behind them.

    ``bootstrap_by`` names the field (a speaker, say) whose groups the intervals resample, not utterances.
    """
    references = [entry["text"] for entry in entries]
    hypotheses = [entry["pred_text"] for entry in entries]
    scores = score(references, hypotheses, profile)
    groups = bootstrap_groups(entries, bootstrap_by)
    metrics = metric_table(scores, groups)
    card = {
        "profile": profile,
        "rules": vars(scores.rules),
        "headline": {"metric": scores.headline(), **metrics[scores.headline()]},
        "utterances": len(entries),
        "audio_seconds": round(sum(entry["duration"] for entry in entries), 3),
        "metrics": metrics,
        "headline_cer_by_profile": {
            name: finite(headline_counts(references, hypotheses, rules).rate)
            for name, rules in PROFILES.items()
        },
        "slices": {
            name: slice_table(scores, labels) for name, labels in slice_labels(entries, fields).items()
        },
        "jamo_confusions": _most_common(scores.jamo_confusions, 60),
        "word_confusions": _most_common(scores.word_confusions, 60),
    }
    return card, scores


def with_utterance_rates(entries: Sequence[dict], scores: Scores) -> list[dict]:
    """Entries with their own ``cer`` (headline) and ``wer``; None where the reference is empty."""
    columns = {"cer": scores.counts[scores.headline()], "wer": scores.counts["wer"]}
    return [
        entry
        | {
            name: round(int(counts[k, :3].sum()) / int(counts[k, 3]), 4) if counts[k, 3] else None
            for name, counts in columns.items()
        }
        for k, entry in enumerate(entries)
    ]


def read_predictions(path: str | Path) -> list[dict]:
    """Entries of a predictions.jsonl, or of the one in a folder; UserError when it is none."""
    path = Path(path)
    path = path / "predictions.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            f"no predictions at {path}: give a folder or a predictions.jsonl that evaluate.py wrote"
        )
    entries = list(read_manifest(path))
    for number, entry in enumerate(entries, 1):
        missing = [key for key in ("text", "pred_text", "duration") if key not in entry]
        if missing:
            raise UserError(f"{path}: utterance {number} has no '{missing[0]}': give a predictions.jsonl")
    if not entries:
        raise UserError(f"{path} holds no utterance")
    return entries


def _key(entry: dict) -> tuple:
    return Path(entry["audio_filepath"]).name, round(entry.get("offset", 0.0), 3), entry["text"]


def compare(
    entries: Sequence[dict], others: Sequence[dict], profile: str, bootstrap_by: str | None = None
) -> dict:
    """Paired significance of two systems' errors on the same utterances, for the metrics that matter most.

    Utterances are matched by audio file name, offset and reference. UserError when the sets differ.
    """
    by_key = {_key(other): other for other in others}
    matched = [by_key.get(_key(entry)) for entry in entries]
    missing = matched.count(None)
    if missing or len(entries) != len(others):
        raise UserError(
            f"the two systems were not run on the same utterances: {missing} of {len(entries)} are missing "
            f"from the {len(others)} of the other; evaluate both on one manifest"
        )
    references = [entry["text"] for entry in entries]
    ours = score(references, [entry["pred_text"] for entry in entries], profile)
    theirs = score(references, [other["pred_text"] for other in matched if other], profile)
    groups = bootstrap_groups(entries, bootstrap_by)
    table = {}
    for metric in METRICS:
        if not ours.total(metric).reference:
            continue
        result = paired_bootstrap(
            ours.errors(metric), theirs.errors(metric), ours.counts[metric][:, 3], groups=groups
        )
        table[metric] = {
            "this": finite(ours.total(metric).rate),
            "other": finite(theirs.total(metric).rate),
            "difference": result.difference,
            "interval95": [result.low, result.high],
            "p_value": result.p_value,
        }
    return table


def percent(value: float | None) -> str:
    """A share in per cent, as tables show it."""
    return "-" if value is None else f"{100 * value:.2f}"


def _label(metric: str, width: int = 24) -> str:
    name = METRIC_NAMES[metric]
    return name + " " * (width - len(name) - sum(ord(c) > 0x1100 for c in name))  # Hangul is two columns wide


def table(card: dict) -> str:
    """The scorecard as a table for the terminal; * marks the profile's headline figure."""
    rules, minutes = card["rules"], card["audio_seconds"] / 60
    lines = [
        f"\n{card['utterances']} utterances, {minutes:.1f} min; rules: {rules['name']} ({rules['source']})",
        f"{'':<26}{'%':>8}  {'95 % interval':<17}{'sub':>7}{'del':>7}{'ins':>7}{'of':>9}",
    ]
    for metric, row in card["metrics"].items():
        marker = "*" if metric == card["headline"]["metric"] else " "
        interval = " to ".join(map(percent, row["interval95"]))
        counts = "".join(f"{row[kind]:>7}" for kind in ("substitutions", "deletions", "insertions"))
        rate = f"{percent(row['rate']):>8}"
        lines.append(f"{marker} {_label(metric)}{rate}  {interval:<17}{counts}{row['reference']:>9}")
    if "rtfx" in card:
        lines.append(f"RTFx {card['rtfx']} ({card['device']}, batches of {card['batch_size']})")
    for other, heading in (("greedy", "beam search against greedy decoding:"), ("against", "")):
        rows = card.get(other, {}).get("metrics", {})
        lines += [heading] if rows and heading else []
        for metric, row in rows.items():
            interval = " to ".join(map(percent, row["interval95"]))
            lines.append(
                f"{_label(metric)} {percent(row['this'])} against {percent(row['other'])}: "
                f"difference {percent(row['difference'])} ({interval}), p = {row['p_value']:.4f}"
            )
    return "\n".join(lines)
