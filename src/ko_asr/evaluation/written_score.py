"""Scores of the written form on dual transcriptions, such as KsponSpeech's ``(3시)/(세 시)``.

A span is a place where the spoken and the written text differ. Precision is the share of the spans that
finishing wrote that stand in the reference, recall that of the reference's spans that it wrote. Spaces do not
count.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein

from ko_asr.evaluation.metrics import PROFILES, Counts, bootstrap_interval, character_counts
from ko_asr.evaluation.scorecard import finite, percent
from ko_asr.evaluation.written_value import folded

SIDES = ("written", "spoken")  # fields of a manifest entry: the sides that its text is not


@dataclass(frozen=True)
class SpanCounts:
    """Spans of the reference and of the hypothesis, and how many of each stand in the other."""

    reference: int = 0
    found: int = 0
    hypothesis: int = 0
    right: int = 0

    def __add__(self, other: "SpanCounts") -> "SpanCounts":
        return SpanCounts(
            self.reference + other.reference,
            self.found + other.found,
            self.hypothesis + other.hypothesis,
            self.right + other.right,
        )

    def to_json(self) -> dict[str, Any]:
        """Precision, recall and the numbers behind them; a share of nothing is None."""
        return {
            "precision": self.right / self.hypothesis if self.hypothesis else None,
            "recall": self.found / self.reference if self.reference else None,
            "reference": self.reference,
            "found": self.found,
            "hypothesis": self.hypothesis,
            "right": self.right,
        }


def spans(spoken: str, written: str) -> list[tuple[int, int]]:
    """Places of ``written``, from start to end, that ``spoken`` has otherwise.

    >>> spans("세시삼십분에", "3시30분에")
    [(0, 1), (2, 4)]
    """
    runs = itertools.groupby(Levenshtein.opcodes(spoken, written), lambda op: op.tag == "equal")
    changed = [[*ops] for equal, ops in runs if not equal]
    return [(ops[0].dest_start, ops[-1].dest_end) for ops in changed]


def span_counts(spoken: str, written: str, heard: str, heard_written: str) -> SpanCounts:
    """Count the spans of a reference and of a transcript, each given as it is spoken and as it is written.

    >>> span_counts("세시에다섯개", "3시에5개", "세시에다섯개", "3시에다섯개")
    SpanCounts(reference=2, found=1, hypothesis=1, right=1)
    """
    reference, hypothesis = spans(spoken, written), spans(heard, heard_written)
    return SpanCounts(
        len(reference),
        _kept(reference, written, heard_written),
        len(hypothesis),
        _kept(hypothesis, heard_written, written),
    )


def _kept(places: list[tuple[int, int]], text: str, other: str) -> int:
    """How many places of ``text`` stand in ``other``, with nothing put in before, inside or behind."""
    if text == other:
        return len(places)
    edits = [(op.tag == "insert", op.src_pos) for op in Levenshtein.editops(text, other)]
    return sum(not any(start <= at < end + inserted for inserted, at in edits) for start, end in places)


def is_dual(entries: Sequence[dict]) -> bool:
    """True where an entry has another side than its text."""
    return any(side in entry for entry in entries for side in SIDES)


def written_card(
    entries: Sequence[dict], finish: Callable[[str], str], profile: str, style: dict[str, str]
) -> dict[str, Any]:
    """Score the written form of entries with ``text`` and ``pred_text``: JSON-ready figures.

    ``transcripts`` is what a reader gets; ``references`` is finishing alone, from the spoken reference. An
    entry without another side is written as it is spoken. Sets ``pred_written`` of every entry.
    """
    spoken = [entry.get("spoken", entry["text"]) for entry in entries]
    written = [entry.get("written", entry["text"]) for entry in entries]
    heard = [entry["pred_text"] for entry in entries]
    for entry in entries:
        entry["pred_written"] = finish(entry["pred_text"])
    made = [entry["pred_written"] for entry in entries]
    ideal = [finish(text) for text in spoken]
    spoken_cer = {"spoken_cer": _cer(spoken, heard, profile)}
    return {
        "utterances": len(entries),
        "dual": sum(a != b for a, b in zip(spoken, written, strict=True)),
        "style": style,
        "transcripts": spoken_cer | _scores(spoken, written, heard, made, profile),
        "references": _scores(spoken, written, spoken, ideal, profile),
    }


def _scores(
    spoken: list[str], written: list[str], heard: list[str], made: list[str], profile: str
) -> dict[str, Any]:
    rows = list(zip(spoken, written, heard, made, strict=True))
    exact = sum(row[1] == row[3] for row in rows)
    right = sum(folded(row[1]) == folded(row[3]) for row in rows)
    return {
        "written_cer": _cer(written, made, profile),
        "sentences_exact": exact / len(rows),
        "sentences_value_right": right / len(rows),
        "spans_exact": _spans(rows, lambda text: text.replace(" ", "")),
        "spans_value_right": _spans(rows, folded),
    }


def _spans(rows: list[tuple[str, str, str, str]], comparable: Callable[[str], str]) -> dict[str, Any]:
    total = SpanCounts()
    for row in rows:
        total += span_counts(*map(comparable, row))
    return total.to_json()


def _cer(references: Sequence[str], hypotheses: Sequence[str], profile: str) -> dict[str, Any]:
    """The profile's headline CER, as `ko_asr.evaluation.scorecard.metric_table` gives it."""
    rules = PROFILES[profile]
    counts = [
        character_counts(rules.apply(a), rules.apply(b), rules.spaces)
        for a, b in zip(references, hypotheses, strict=True)
    ]
    total = sum(counts, Counts(0, 0, 0, 0))
    errors = np.array([one.errors for one in counts])
    interval = bootstrap_interval(errors, np.array([one.reference for one in counts]))
    return {
        "rate": finite(total.rate),
        "interval95": [*map(finite, interval)],
        "substitutions": total.substitutions,
        "deletions": total.deletions,
        "insertions": total.insertions,
        "reference": total.reference,
    }


def table(card: dict[str, Any]) -> str:
    """`written_card` as lines for the terminal."""
    lines = [
        f"\nwritten form: {card['dual']} of {card['utterances']} utterances differ from the spoken one",
        f"{'%':<26}{'transcripts':>12}{'references':>12}",
    ]
    for label, values in rows(card):
        lines.append(f"{label:<26}" + "".join(f"{percent(value):>12}" for value in values))
    return "\n".join(lines)


def rows(card: dict[str, Any]) -> list[tuple[str, tuple[float | None, float | None]]]:
    """Figures of `written_card` as shown: a label and two shares, of transcripts and references."""
    ours, ideal = card["transcripts"], card["references"]
    found: list[tuple[str, tuple[float | None, float | None]]] = [
        ("spoken CER", (ours["spoken_cer"]["rate"], None)),
        ("written CER", (ours["written_cer"]["rate"], ideal["written_cer"]["rate"])),
        ("sentences exact", (ours["sentences_exact"], ideal["sentences_exact"])),
        ("sentences, value right", (ours["sentences_value_right"], ideal["sentences_value_right"])),
    ]
    for key, name in (("spans_exact", "exact"), ("spans_value_right", "value right")):
        for share in ("precision", "recall"):
            found.append((f"span {share}, {name}", (ours[key][share], ideal[key][share])))
    return found
