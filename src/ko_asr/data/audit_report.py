"""The audit as one self-contained HTML page, and the data card in Markdown."""

import importlib.resources
import io
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

matplotlib.use("svg")  # no display
import matplotlib.pyplot as plt

MOST_REJECTED_SHOWN = 5_000  # rows a browser still opens at once; the rest is in rejected.jsonl
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2")
_PLOTS = {
    "seconds": "duration, s",
    "syllables_per_second": "syllables a second",
    "jamo_per_second": "jamo a second",
    "level_dbfs": "level, dBFS",
}


def render_report(audit: dict[str, Any], rejected: Path) -> str:
    """Render the page. ``rejected`` is the rejected.jsonl whose rows are listed."""
    with rejected.open(encoding="utf-8") as stream:
        rows = [json.loads(line) for line in itertools.islice(stream, MOST_REJECTED_SHOWN)]
    total = sum(split["rejected"] for split in audit["splits"].values())
    plots = [_histogram(audit["splits"], name, label) for name, label in _PLOTS.items()]
    return (
        _environment()
        .get_template("audit_report.html.j2")
        .render(
            audit=audit, plots=[*plots, _rules_plot(audit["splits"])], rejected=rows, rejected_total=total
        )
    )


def render_card(audit: dict[str, Any]) -> str:
    """Render the data card: what is in these manifests, how it was made, what to know before using it."""
    return _environment(autoescape=False).get_template("data_card.md.j2").render(audit=audit)


def _environment(autoescape: bool = True) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: (importlib.resources.files("ko_asr.data") / name).read_text(encoding="utf-8")
        ),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: f"{100 * value:.2f} %"
    environment.filters["thousands"] = lambda value: f"{value:,}"
    return environment


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ko_asr"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)


def _histogram(splits: dict[str, Any], name: str, label: str) -> str:
    """Draw one line a split, in shares, so that 620,000 utterances and 3,000 can be compared."""
    figure, axes = plt.subplots(figsize=(5.4, 3.0))
    for colour, (split, audit) in zip(itertools.cycle(_COLOURS), splits.items(), strict=False):
        if name not in audit:
            continue
        histogram = audit[name]["histogram"]
        total = sum(histogram["counts"])
        edges = [histogram["from"] + i * histogram["width"] for i in range(len(histogram["counts"]) + 1)]
        shares = [100 * count / total for count in histogram["counts"]]
        axes.stairs(
            shares, edges, label=f"{split} (median {audit[name]['quantiles']['0.5']:.2f})", color=colour
        )
    axes.set_xlabel(label)
    axes.set_ylabel("% of utterances")
    if axes.has_data():
        axes.legend(fontsize=8)
    return _svg(figure)


def _rules_plot(splits: dict[str, Any]) -> str:
    """Draw the share of lines that each text rule changed, over all splits."""
    lines = sum(audit["lines"] for audit in splits.values())
    shares: dict[str, float] = {}
    for audit in splits.values():
        for rule, share in audit["rules"].items():
            shares[rule] = shares.get(rule, 0.0) + 100 * share * audit["lines"] / max(1, lines)
    ordered: Sequence[tuple[str, float]] = sorted(shares.items(), key=lambda item: item[1])
    figure, axes = plt.subplots(figsize=(5.4, 0.8 + 0.25 * max(1, len(ordered))))
    bars = axes.barh([rule for rule, _ in ordered], [share for _, share in ordered], color=_COLOURS[0])
    axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.set_xlabel("% of lines changed by each text rule")
    axes.margins(x=0.15)
    return _svg(figure)
