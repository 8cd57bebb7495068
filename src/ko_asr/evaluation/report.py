"""The evaluation as one self-contained HTML page: plots inline, the worst utterances marked and playable."""

import base64
import importlib.resources
import io
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

# No display, and text stays text: the reader's browser has Hangul, matplotlib's font has not.
matplotlib.use("svg")
import jinja2
import matplotlib.pyplot as plt
import numpy as np
import soundfile
from rapidfuzz.distance import Levenshtein

from ko_asr.audio.problem import AudioProblem
from ko_asr.audio.read import joined
from ko_asr.audio.reader import AudioReader
from ko_asr.evaluation.metrics import PROFILES
from ko_asr.evaluation.scorecard import METRIC_NAMES
from ko_asr.evaluation.written_score import rows as written_rows

_SHOWN_METRICS = ("cer", "wer", "swer", "onset", "nucleus", "coda")
_MOST_BARS = 12  # of one slice; the table has them all
_MOST_SECONDS = 30.0  # of one playable clip; a page with an hour of audio would not open


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}"


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="svg", bbox_inches="tight")
    plt.close(figure)
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def _rates_plot(labels: Sequence[str], rows: Sequence[dict], title: str) -> str:
    """Bars of error rates in per cent with their 95 % intervals; a row has ``rate`` and ``interval95``."""
    figure, axes = plt.subplots(figsize=(5.4, 3.2))
    rates = np.array([100 * (row["rate"] or 0.0) for row in rows])
    bars = np.array([_error_bar(row, rate) for row, rate in zip(rows, rates, strict=True)]).reshape(-1, 2)
    axes.bar(range(len(rows)), rates, yerr=bars.T, color="#4c78a8", capsize=3)
    crowded = sum(map(len, labels)) > 30
    axes.set_xticks(range(len(rows)), labels, rotation=30 * crowded, ha="right" if crowded else "center")
    axes.set_ylabel("%")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _error_bar(row: dict, rate: float) -> tuple[float, float]:
    """Lengths of a bar's two error bars in per cent, 0 where the interval has no bound."""
    low, high = (rate if bound is None else 100 * bound for bound in row["interval95"])
    return max(rate - low, 0.0), max(high - rate, 0.0)


def _histogram(entries: Sequence[dict]) -> str:
    figure, axes = plt.subplots(figsize=(5.4, 3.2))
    rates = [100 * min(entry["cer"], 1.5) for entry in entries if entry["cer"] is not None]
    axes.hist(rates, bins=list(range(0, 5 * int(max(rates, default=0) // 5) + 10, 5)), color="#4c78a8")
    axes.set_yscale("log")
    axes.set_xlabel("CER of an utterance, %")
    axes.set_ylabel("utterances")
    axes.set_title("How the errors are spread")
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _coda_heat_map(confusions: Sequence[Sequence]) -> str | None:
    """Picture of the most frequent confusions of final consonants; None without any."""
    rows = [(said or "–", heard or "–", count) for role, said, heard, count in confusions if role == "coda"]
    if not rows:
        return None
    said, heard = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    grid = np.zeros((len(said), len(heard)))
    for a, b, count in rows:
        grid[said.index(a), heard.index(b)] = count
    figure, axes = plt.subplots(figsize=(5.4, 3.6))
    image = axes.imshow(grid, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(heard)), heard)
    axes.set_yticks(range(len(said)), said)
    axes.set_xlabel("heard")
    axes.set_ylabel("said")
    axes.set_title("Final consonants confused (– is none)")
    figure.colorbar(image)
    return _svg(figure)


def plots(card: dict, entries: Sequence[dict]) -> list[str]:
    """Inline SVG pictures of a scorecard and its utterances."""
    found = [
        _rates_plot(_SHOWN_METRICS, [card["metrics"][m] for m in _SHOWN_METRICS], "Error rates"),
        _histogram(entries),
    ]
    for name, table in card["slices"].items():
        rows = [row | {"rate": row["cer"]} for row in table]
        if 0 < len(rows) <= _MOST_BARS:
            found.append(_rates_plot([row["value"] for row in rows], rows, f"CER by {name}"))
    heat_map = _coda_heat_map(card["jamo_confusions"])
    return [*found, heat_map] if heat_map else found


def marked_up(said: str, heard: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Both texts in pieces (class, text) for showing where they differ.

    >>> marked_up("값이 싸", "갑이 싸다")
    ([('wrong', '값'), ('', '이 싸')], [('wrong', '갑'), ('', '이 싸'), ('added', '다')])
    """
    left, right = [], []
    for op in Levenshtein.opcodes(said, heard):
        kind = {"equal": "", "replace": "wrong", "delete": "gone", "insert": "added"}[op.tag]
        if op.src_end > op.src_start:
            left.append((kind, said[op.src_start : op.src_end]))
        if op.dest_end > op.dest_start:
            right.append((kind, heard[op.dest_start : op.dest_end]))
    return left, right


def audio_data_uri(entry: dict) -> str | None:
    """The entry's audio (at most 30 s) as an MP3 data URI, None where it cannot be read or holds NaN."""
    try:
        start = float(entry.get("offset", 0.0))
        with AudioReader(entry["audio_filepath"]) as audio:
            end = start + min(float(entry["duration"]), _MOST_SECONDS)
            samples, rate = joined(audio, start, end), audio.rate
        if not len(samples):
            return None
        buffer = io.BytesIO()
        # LAME ends the whole process for samples that are no numbers or far from -1..1.
        soundfile.write(buffer, np.clip(samples, -1.0, 1.0), rate, format="MP3")
    except (AudioProblem, RuntimeError, OSError, ValueError, OverflowError):
        return None
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _worst(entries: Sequence[dict], profile: str, number: int) -> list[dict]:
    rules = PROFILES[profile]
    wrong = [entry for entry in entries if entry["cer"]]
    shown = []
    for entry in sorted(wrong, key=lambda e: (-e["cer"], -len(e["text"])))[:number]:
        said, heard = marked_up(rules.apply(entry["text"]), rules.apply(entry["pred_text"]))
        name = Path(entry["audio_filepath"]).name
        shown.append({"file": name, "said": said, "heard": heard, "audio": audio_data_uri(entry)})
        shown[-1] |= {"duration": entry["duration"], "cer": entry["cer"]}
    return shown


def render(
    card: dict, entries: Sequence[dict], title: str, provenance: dict[str, Any], worst: int = 20
) -> str:
    """The page for a scorecard and its entries (with ``pred_text`` and ``cer``)."""
    source = importlib.resources.files("ko_asr.evaluation") / "report.html.j2"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["percent"] = _percent
    return environment.from_string(source.read_text(encoding="utf-8")).render(
        card={"against": None, "greedy": None} | card,
        headline_name=METRIC_NAMES[card["headline"]["metric"]],
        names=METRIC_NAMES,
        plots=plots(card, entries),
        provenance=list(provenance.items()),
        sources={name: rules.source for name, rules in PROFILES.items()},
        title=title,
        worst=_worst(entries, card["profile"], worst),
        written=written_rows(card["written"]) if card.get("written") else [],
    )
