"""The audit of a prepared corpus: what was kept, what was rejected and why, and what looks wrong.

Counts add up: lines in = kept + rejected. Everything is computed from the few numbers an utterance that
`prepare` kept and from the manifests on disk, so memory stays bounded.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.corpora.base import Corpus
from ko_asr.data.duplicates import SHORTEST, NearDuplicates
from ko_asr.data.split_result import SplitResult
from ko_asr.files import atomic_write
from ko_asr.provenance import provenance
from ko_asr.runtime.frames import SAMPLE_RATE, encoder_frames, mel_frames, required_frames
from ko_asr.runtime.hangul import COMPAT_JAMO, is_syllable
from ko_asr.text.normalizer import Normalizer

EXAMPLES = 20  # utterances named for each finding
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
PACKAGES = ("ko-asr", "numpy", "soundfile", "soxr", "sentencepiece", "rapidfuzz")

# Findings: an utterance is named, never rejected, when its number is beyond the limit.
FINDINGS = {
    "clipped": "more than 0.1 % of the samples at the limits",
    "silent": "more than 80 % of the 20 ms frames below -50 dBFS",
    "quiet": "level below -50 dBFS",
    "DC offset": "mean beyond 1 % of full scale",
    "noise": "neighbouring samples uncorrelated (below 0.3), as when a byte is missing",
    "duration outlier": "duration beyond three interquartile ranges (of its logarithm)",
    "too fast": "more than 11 syllables a second: the text may belong to other audio",
    "too slow": "less than one syllable in two seconds: the text may be cut",
}


def write_audit(
    corpus: Corpus,
    results: Sequence[SplitResult],
    normalizer: Normalizer,
    out: Path,
    tokenizers: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write audit.json, audit.html and data_card.md into ``out`` and return the audit.

    ``tokenizers`` are folders of built tokenizers, whose CTC feasibility is told.
    """
    from ko_asr.data.audit_report import render_card, render_report

    audit = build_audit(corpus, results, normalizer, tokenizers)
    with atomic_write(out / "audit.json") as stream:
        json.dump(audit, stream, ensure_ascii=False, indent=1)
        stream.write("\n")
    with atomic_write(out / "audit.html") as stream:
        stream.write(render_report(audit, out / "rejected.jsonl"))
    with atomic_write(out / "data_card.md") as stream:
        stream.write(render_card(audit))
    return audit


def build_audit(
    corpus: Corpus,
    results: Sequence[SplitResult],
    normalizer: Normalizer,
    tokenizers: Sequence[Path] = (),
) -> dict[str, Any]:
    """Compute everything that the report shows, ready for JSON.

    It covers ``results``; manifests of earlier runs with other splits are named in "not_audited".
    """
    folder = results[0].manifest.parent
    audit: dict[str, Any] = {
        "corpus": {
            "name": corpus.name,
            "title": corpus.title,
            "licence": corpus.licence,
            "url": corpus.url,
            "synthetic": corpus.synthetic,
        },
        "text_rules": normalizer.describe(),
        "findings": FINDINGS,
        "not_audited": [
            split
            for split in corpus.splits()
            if split not in [r.split for r in results] and (folder / f"{split}.jsonl").exists()
        ],
        "splits": {r.split: _split_audit(r, corpus.published.get(r.split)) for r in results},
        "across_splits": _across(results),
        "feasibility": _feasibility([r for r in results if r.kept], tokenizers),
        "provenance": provenance(PACKAGES),
    }
    audit["summary"] = _summary(audit)
    return audit


def _split_audit(result: SplitResult, published: int | None) -> dict[str, Any]:
    columns = {name: np.asarray(column) for name, column in result.columns.items()}
    seconds = columns["samples"] / SAMPLE_RATE
    rejected = sum(result.rejected.values())
    audit = {
        "lines": result.lines,
        "kept": result.kept,
        "rejected": rejected,
        "adds_up": result.lines == result.kept + rejected,
        "rejected_share": result.rejected_share,
        "rejected_by_reason": dict(result.rejected.most_common()),
        "published": published,
        "matches_published": None if published is None else result.lines == published,
        "hours": float(seconds.sum() / 3600),
        "converted_earlier": result.reused,
        "repairs": dict(result.repairs.most_common()),
        "rules": {name: count / max(1, result.lines) for name, count in result.rules.most_common()},
        "characters": _characters(result.characters),
    }
    if result.kept:
        audit |= {
            "seconds": _distribution(seconds, upper=min(30.0, float(np.ceil(seconds.max())))),
            "syllables_per_second": _distribution(columns["syllables"] / seconds, upper=12.0),
            "jamo_per_second": _distribution(columns["jamo"] / seconds, upper=30.0),
            "level_dbfs": _distribution(columns["rms_db"].astype(float), lower=-70.0, upper=0.0),
            "found": _findings(result, columns, seconds),
            "duplicate_audio": _repeated(result, columns["audio_digest"]),
            "duplicate_text": _repeated(result, columns["text_digest"]),
        }
    return audit


def _characters(counts: Counter[str]) -> dict[str, Any]:
    """Count the inventory by kind and list the rarest, which a tokenizer will not know."""
    kinds: Counter[str] = Counter()
    for character, count in counts.items():
        kinds[_kind(character)] += count
    others = {c: n for c, n in counts.most_common() if _kind(c) in ("other", "sign", "stand-alone jamo")}
    rare = [c for c, n in counts.items() if n == 1]
    return {
        "distinct": len(counts),
        "distinct_syllables": sum(map(is_syllable, counts)),
        "by_kind": dict(kinds.most_common()),
        "most_frequent": dict(counts.most_common(40)),
        "seen_once": len(rare),
        "seen_once_examples": "".join(sorted(rare)[:200]),
        "others": dict(list(others.items())[:100]),
    }


def _kind(character: str) -> str:
    if is_syllable(character):
        return "syllable"
    if character in COMPAT_JAMO:
        return "stand-alone jamo"
    if character == " ":
        return "space"
    if character.isdigit():
        return "digit"
    if character.isascii():
        return "Latin" if character.isalpha() else "sign"
    return "other"


def _distribution(
    values: np.ndarray, lower: float = 0.0, upper: float = 1.0, bins: int = 60
) -> dict[str, Any]:
    """Compute mean, quantiles and a histogram; values outside are counted into the outermost bins."""
    counts, edges = np.histogram(np.clip(values, lower, upper), bins=bins, range=(lower, upper))
    quantiles = np.quantile(values, QUANTILES)
    return {
        "mean": float(values.mean()),
        "quantiles": {f"{q:g}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
        "histogram": {
            "counts": counts.tolist(),
            "from": lower,
            "to": upper,
            "width": float(edges[1] - edges[0]),
        },
    }


def _findings(result: SplitResult, columns: dict[str, np.ndarray], seconds: np.ndarray) -> dict[str, Any]:
    logarithm = np.log(seconds)
    low, high = np.quantile(logarithm, [0.25, 0.75])
    spread = 3 * max(high - low, 0.05)
    speed = columns["syllables"] / seconds
    masks = {
        "clipped": columns["clipped"] > 0.001 * columns["samples"],
        "silent": columns["silent"] > 0.8,
        "quiet": columns["rms_db"] < -50,
        "DC offset": np.abs(columns["dc"]) > 0.01,
        "noise": columns["correlation"] < 0.3,
        "duration outlier": (logarithm < low - spread) | (logarithm > high + spread),
        "too fast": speed > 11,
        "too slow": (speed < 0.5) & (columns["syllables"] > 0) & (seconds > 4),
    }
    return {name: _examples(result, np.flatnonzero(mask)) for name, mask in masks.items()}


def _examples(result: SplitResult, rows: np.ndarray) -> dict[str, Any]:
    return {"count": len(rows), "examples": [_entry(result, int(row)) for row in rows[:EXAMPLES]]}


def _entry(result: SplitResult, row: int) -> dict[str, Any]:
    with result.manifest.open("rb") as stream:
        stream.seek(result.columns["offset"][row])
        entry = json.loads(stream.readline())
    return {name: entry[name] for name in ("audio_filepath", "duration", "text")}


def _repeated(result: SplitResult, digests: np.ndarray) -> dict[str, Any]:
    """Count and name the utterances whose digest occurred before in this split."""
    _, first, counts = np.unique(digests, return_index=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rows = first[order][: int((counts > 1).sum())]
    found = _examples(result, rows)
    found["count"] = len(digests) - len(counts)
    found["examples"] = [
        e | {"times": int(c)} for e, c in zip(found["examples"], counts[order], strict=False)
    ]
    return found


def _across(results: Sequence[SplitResult]) -> list[dict[str, Any]]:
    """Compare each split with the first (training) split: same audio, same text, nearly the same text."""
    kept = [result for result in results if result.kept]
    if len(kept) < 2:
        return []
    train, others = kept[0], kept[1:]
    near = _near_duplicates(train, others)
    rows = []
    for other in others:
        row: dict[str, Any] = {"split": other.split, "against": train.split}
        for name, column in (("same_audio", "audio_digest"), ("same_text", "text_digest")):
            digests = np.asarray(other.columns[column])
            shared = np.flatnonzero(np.isin(digests, np.asarray(train.columns[column])))
            row[name] = _examples(other, shared) | {"share": len(shared) / other.kept}
        long_enough = np.asarray(other.columns["syllables"]) >= SHORTEST
        shared_long = np.isin(
            np.asarray(other.columns["text_digest"])[long_enough], np.asarray(train.columns["text_digest"])
        )
        row["same_text"]["of_long_texts"] = int(shared_long.sum())
        rows.append(row | {"near_text": near[other.split]})
    return rows


def _texts(result: SplitResult) -> Iterator[str]:
    with result.manifest.open("rb") as stream:
        for line in stream:
            yield json.loads(line)["text"]


def _near_duplicates(train: SplitResult, others: Sequence[SplitResult]) -> dict[str, dict[str, Any]]:
    texts = [(other.split, text) for other in others for text in _texts(other)]
    index = NearDuplicates(text for _, text in texts)
    matched: dict[str, dict[int, dict]] = {other.split: {} for other in others}
    for position, text in enumerate(_texts(train)):
        for pair in index.matches(position, text):
            split, other_text = texts[pair.indexed]
            if text != other_text:
                index.discard(pair.indexed)
                matched[split][pair.indexed] = {"text": other_text, "in_train": text, "edits": pair.edits}
    return {
        other.split: {
            "count": len(matched[other.split]),
            "share": len(matched[other.split]) / other.kept,
            "shortest": SHORTEST,
            "examples": list(matched[other.split].values())[:EXAMPLES],
        }
        for other in others
    }


def _feasibility(results: Sequence[SplitResult], folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Compute the share of utterances that CTC cannot align, for each tokenizer, split and subsampling."""
    rows: list[dict[str, Any]] = []
    if not folders:
        return rows
    from ko_asr.text import tokenizer

    processors = {folder.name: tokenizer.load(folder) for folder in folders}
    for result in results:
        infeasible: Counter[tuple[str, int]] = Counter()
        for samples, text in zip(result.columns["samples"], _texts(result), strict=True):
            frames = {factor: encoder_frames(mel_frames(samples), factor) for factor in (4, 8)}
            for name, processor in processors.items():
                needed = required_frames(processor.encode(text))
                for factor, available in frames.items():
                    infeasible[name, factor] += needed > available
        for name in processors:
            shares = {f"{factor}x": infeasible[name, factor] / result.kept for factor in (4, 8)}
            rows.append({"tokenizer": name, "split": result.split, "infeasible": shares})
    return rows


def _summary(audit: dict[str, Any]) -> list[str]:
    """Return the lines that a person reads at the end of a run."""
    lines = []
    for name, split in audit["splits"].items():
        line = f"{name}: {split['lines']} lines = {split['kept']} kept + {split['rejected']} rejected"
        line += f", {split['hours']:.2f} h"
        if split["rejected"]:
            reasons = (f"{count} {reason}" for reason, count in split["rejected_by_reason"].items())
            line += f" (rejected: {', '.join(reasons)})"
        if split["published"] is not None:
            verdict = "as published" if split["matches_published"] else f"published are {split['published']}"
            line += f"; {verdict}"
        lines.append(line)
    if left_out := ", ".join(audit["not_audited"]):
        lines.append(
            f"not in this audit: {left_out}, of an earlier run (without --splits all are audited, and no "
            "audio is converted again)"
        )
    for row in audit["across_splits"]:
        counts = row["same_text"]["count"], row["near_text"]["count"], row["same_audio"]["count"]
        if any(counts):
            lines.append(
                f"{row['split']} in {row['against']}: {counts[0]} texts the same, {counts[1]} nearly, "
                f"{counts[2]} recordings the same"
            )
    for row in audit["feasibility"]:
        if max(row["infeasible"].values()) > 0:
            shares = ", ".join(f"{share:.2%} at {factor}" for factor, share in row["infeasible"].items())
            lines.append(f"infeasible for CTC in {row['split']} with tokenizer {row['tokenizer']}: {shares}")
    return lines
