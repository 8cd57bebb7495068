"""Compare tokenizers on one manifest: how many tokens, what is unknown, what CTC cannot align.

    python tokenizers/compare.py tokenizers/jamo tokenizers/ksponspeech_unigram \
        --manifest data/ksponspeech/dev.jsonl --out results/tokenizers

Prints a table and writes tokenizers.json and tokenizers.png to --out. Infeasible is the share of utterances
that need more encoder frames than 4x or 8x subsampling gives; training drops them silently. Worst is the
largest such need, in frames needed a frame available: above 1.0 it does not fit.
"""

import argparse
import json
from pathlib import Path

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.text.feasibility import SUBSAMPLINGS, TokenStatistics, token_statistics
from ko_asr.text.tokenizer import load

_BY_SUBSAMPLING = [f"{kind} at {n}x" for n in SUBSAMPLINGS for kind in ("infeasible", "worst")]
HEADINGS = ("tokenizer", "pieces", "tokens/s", "unknown", *_BY_SUBSAMPLING)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokenizers", type=Path, nargs="+", help="folders that hold a tokenizer.model")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--causal", action="store_true", help="the frames of a cache-aware streaming encoder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures and the plot")
    return parser.parse_args()


def figures(name: str, pieces: int, statistics: TokenStatistics) -> dict:
    return {
        "tokenizer": name,
        "pieces": pieces,
        "tokens_per_second": statistics.tokens_per_second,
        "unknown_rate": statistics.unknown_rate,
        "infeasible": {f"{n}x": statistics.infeasible_share(n) for n in SUBSAMPLINGS},
        "longest_ratio": {f"{n}x": statistics.longest_ratio[n] for n in SUBSAMPLINGS},
        "longest_text": {f"{n}x": statistics.worst[n] for n in SUBSAMPLINGS},
    }


def table(rows: list[dict]) -> str:
    lines = [HEADINGS]
    for row in rows:
        cells = [row["tokenizer"], str(row["pieces"]), f"{row['tokens_per_second']:.1f}"]
        cells.append(f"{row['unknown_rate']:.3%}")
        for n in SUBSAMPLINGS:
            cells += [f"{row['infeasible'][f'{n}x']:.2%}", f"{row['longest_ratio'][f'{n}x']:.2f}"]
        lines.append(tuple(cells))
    widths = [max(len(line[k]) for line in lines) for k in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def plot(rows: list[dict], path: Path) -> None:
    """Plot tokens a second against the frames a second of 8x and 4x, and the infeasible share beside it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [row["tokenizer"] for row in rows]
    figure, (rates, shares) = pyplot.subplots(
        1, 2, figsize=(11, 1.6 + 0.45 * len(rows)), layout="constrained"
    )
    rates.barh(names, [row["tokens_per_second"] for row in rows], color="#4477aa")
    for n, style in zip(SUBSAMPLINGS, ("-", "--"), strict=True):
        rates.axvline(100 / n, color="black", linestyle=style, label=f"{100 / n:g} frames/s ({n}x)")
    rates.set_xlabel("tokens a second of speech")
    height = 0.8 / len(SUBSAMPLINGS)
    for k, n in enumerate(SUBSAMPLINGS):
        places = [i + (k - 0.5) * height for i in range(len(rows))]
        values = [100 * row["infeasible"][f"{n}x"] for row in rows]
        shares.barh(places, values, height, label=f"{n}x subsampling")
    shares.set_yticks(range(len(rows)), names)
    shares.set_xlabel("utterances that CTC cannot align, %")
    for axes in (rates, shares):
        axes.invert_yaxis()
        axes.legend(fontsize="small")
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=120)
    pyplot.close(figure)


def main() -> None:
    arguments = parse_arguments()
    processors = {folder: load(folder) for folder in arguments.tokenizers}
    entries = list(read_manifest(arguments.manifest))
    if not entries:
        raise UserError(f"{arguments.manifest} holds no utterance")
    rows = []
    for folder, processor in processors.items():
        statistics = token_statistics(entries, processor, causal=arguments.causal)
        rows.append(figures(folder.name, processor.get_piece_size(), statistics))
    print(f"{len(entries)} utterances of {arguments.manifest}")
    print(table(rows))
    plot(rows, arguments.out / "tokenizers.png")
    with atomic_write(arguments.out / "tokenizers.json") as stream:
        json.dump(
            {"manifest": str(arguments.manifest), "tokenizers": rows}, stream, ensure_ascii=False, indent=1
        )
    print(f"wrote {arguments.out}/tokenizers.json and tokenizers.png")


if __name__ == "__main__":
    run_main(main)
