"""Measure what finishing does around numbers, on the cases of tests/finishing/cases, and how fast it is:

    python bench/finishing.py [--no-speed] [--plain LINES.txt] [--out bench/results/finishing.json]

Sentence ends and question marks inside and at the end of utterances, fillers, spaces and masked words, each
with precision and recall; with the pauses that the cases hold and without, with Kiwi (where it is installed)
and without. cases/unseen was written after the rules, which were not tuned on it. ``--plain``: lines in which
nothing is to be changed; those that are, by stage. Speed is of one core.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ko_asr.errors import run_main
from ko_asr.files import atomic_write
from ko_asr.finishing import kiwi
from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.words import Written
from ko_asr.provenance import provenance

CASES = Path(__file__).parents[1] / "tests/finishing/cases"
SYLLABLE_MS, GAP_MS, HELD_MS = 150, 50, 500


@dataclass(frozen=True)
class Word:
    """A spoken word, as the decoder gives it."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float = 1.0
    syllables: tuple[()] = ()


def rows(folder: Path, name: str) -> Iterator[list[str]]:
    for line in (folder / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split("\t")


def spoken(text: str) -> list[Word]:
    """The words of a case with their times: <300> is a pause, a word that ends in ~ is held."""
    words, at, pause = [], 0, 0
    for item in text.split():
        if found := re.fullmatch(r"<(\d+)>", item):
            pause = int(found[1])
            continue
        held = "~" in item
        item = re.sub("[][()~]", "", item)
        at += pause
        length = HELD_MS if held else SYLLABLE_MS * len(item)
        words.append(Word(item, at, at + length))
        at, pause = at + length, GAP_MS
    return words


def without_marks(words: Sequence[Word]) -> list[Word]:
    return [Word(word.text.rstrip(".?"), word.start_ms, word.end_ms) for word in words]


def rate(counts: Counter[str]) -> dict[str, float | int]:
    """Precision, recall and F1 of hits, false alarms and misses."""
    hits, false, missed = counts["hits"], counts["false"], counts["missed"]
    precision, recall = hits / max(1, hits + false), hits / max(1, hits + missed)
    return {
        "precision": round(precision, 3),
        "recall": round(recall, 3),
        "f1": round(2 * precision * recall / max(1e-9, precision + recall), 3),
        "hits": hits, "false": false, "missed": missed,
    }  # fmt: skip


def compare(counts: Counter[str], gold: set[int], found: set[int]) -> None:
    counts.update(hits=len(gold & found), false=len(found - gold), missed=len(gold - found))


def heard(words: Sequence[Word], timed: bool) -> Sequence[Word] | list[str]:
    return words if timed else [word.text for word in words]


def sentence_figures(
    folder: Path, analyzer: str, timed: bool, show: Callable[[str], None]
) -> dict[str, object]:
    finisher = Finisher(FinishOptions(itn=False, punctuation=True, analyzer=analyzer))
    inside, end, asks = Counter[str](), Counter[str](), Counter[str]()
    for _, text in rows(folder, "sentences.tsv"):
        gold = [word.text for word in spoken(text)]
        bare = without_marks(spoken(text))
        made = finisher(heard(bare, timed)).text.split()
        last = len(gold) - 1
        ends, found = ({n for n, word in enumerate(side) if word[-1] in ".?"} for side in (gold, made))
        compare(inside, ends - {last}, found - {last})
        compare(end, ends & {last}, found & {last})
        questions = [{n for n, word in enumerate(side) if word[-1] == "?"} for side in (gold, made)]
        compare(asks, *questions)
        if made != gold:
            show(f"sentences {analyzer} {timed}: {' '.join(made)}  |  {text}")
    return {"inside": rate(inside), "at_the_end": rate(end), "questions": rate(asks)}


def filler_figures(folder: Path, level: str, timed: bool, show: Callable[[str], None]) -> dict[str, object]:
    finisher = Finisher(FinishOptions(itn=False, disfluency_filter=True, disfluency_level=level))
    counts, lines = Counter[str](), 0
    for kind, text in rows(folder, "fillers.tsv"):
        items = [item for item in text.split() if not item.startswith("<")]
        gold = {number for number, item in enumerate(items) if item.startswith("(")}
        dropped = set(finisher(heard(spoken(text), timed)).dropped)
        compare(counts, gold, dropped)
        lines += kind == "keep" and bool(dropped)
        if dropped != gold:
            show(f"fillers {level} {timed}: dropped {[items[n] for n in sorted(dropped)]}  |  {text}")
    return rate(counts) | {"false_lines": lines}


def boundaries(text: str) -> set[int]:
    """Where spaces are, in syllables from the start."""
    ends, at = set(), 0
    for word in text.split():
        at += len(word)
        ends.add(at)
    return ends


def spacing_figures(folder: Path, analyzer: str, show: Callable[[str], None]) -> dict[str, object]:
    finisher = Finisher(FinishOptions(itn=False, spacing=True, analyzer=analyzer))
    before, after, repairs, changed = Counter[str](), Counter[str](), Counter[str](), 0
    for kind, wrong, right in rows(folder, "spacing.tsv"):
        made = finisher(wrong).text
        given, gold, found = boundaries(wrong), boundaries(right), boundaries(made)
        compare(before, gold, given)
        compare(after, gold, found)
        compare(repairs, gold ^ given, found ^ given)
        changed += kind == "keep" and made != right
        if made != right:
            show(f"spacing {analyzer}: {made}  |  {right}")
    figures: dict[str, object] = {"heard": rate(before), "written": rate(after), "repairs": rate(repairs)}
    return figures | {"right_lines_changed": changed}


def mask_figures(folder: Path, show: Callable[[str], None]) -> dict[str, object]:
    finisher = Finisher(FinishOptions(profanity_filter=True))
    counts, false = Counter[str](), 0
    for kind, text in rows(folder, "masks.tsv"):
        gold = re.sub(r"\[(.*?)\]", lambda found: "*" * len(found[1]), text)
        made = finisher(re.sub(r"[][]", "", text)).text
        hit = "*" in made
        outcome = {("mask", True): "hits", ("keep", True): "false", ("mask", False): "missed"}
        counts[outcome.get((kind, hit), "right")] += 1
        false += kind == "mask" and hit and made != gold
        if made != gold and (hit or kind == "mask"):
            show(f"masks: {made}  |  {text}")
    return rate(counts) | {"masked_otherwise": false}


STAGES = {
    "disfluency_filter": {"itn": False, "disfluency_filter": True},
    "spacing, rules": {"itn": False, "spacing": True, "analyzer": "rules"},
    "spacing": {"itn": False, "spacing": True},
    "profanity_filter": {"itn": False, "profanity_filter": True},
}  # fmt: skip


def plain_figures(path: Path, show: Callable[[str], None]) -> dict[str, object]:
    lines = path.read_text(encoding="utf-8").splitlines()
    figures: dict[str, object] = {"lines": len(lines)}
    for name, options in STAGES.items():
        finisher = Finisher(FinishOptions(**options))
        changed = [(line, made) for line in lines if (made := finisher(line).text) != line]
        figures[name] = len(changed)
        for line, made in changed:
            show(f"plain {name}: {made}  |  {line}")
    return figures


def per_second(finish: Callable[[Sequence[Word]], Written], utterances: Sequence[Sequence[Word]]) -> int:
    """Utterances a second of CPU time, the best of three."""
    finish(utterances[0])
    best = 1e9
    for _ in range(3):
        start = time.process_time()
        for utterance in utterances:
            finish(utterance)
        best = min(best, time.process_time() - start)
    return round(len(utterances) / best)


def speed_figures() -> dict[str, int]:
    texts = [text for name in ("sentences.tsv", "fillers.tsv") for _, text in rows(CASES, name)]
    utterances = [without_marks(spoken(text)) for text in texts] * 10
    everything = {
        "disfluency_filter": True, "spacing": True, "punctuation": True, "profanity_filter": True,
        "paragraph_splitter": True, "terms": {"서울 시청": "서울특별시청", "챗 지피티": "ChatGPT"},
    }  # fmt: skip
    alone: Iterable[tuple[str, FinishOptions]] = [
        ("nothing", FinishOptions(itn=False)),
        ("itn", FinishOptions()),
        ("terms", FinishOptions(itn=False, terms={f"용어{n}": f"T{n}" for n in range(1000)})),
        ("disfluency_filter", FinishOptions(itn=False, disfluency_filter=True)),
        ("spacing, rules", FinishOptions(itn=False, spacing=True, analyzer="rules")),
        ("punctuation, rules", FinishOptions(itn=False, punctuation=True, analyzer="rules")),
        ("profanity_filter", FinishOptions(itn=False, profanity_filter=True)),
        ("everything, rules", FinishOptions(analyzer="rules", **everything)),
    ]
    figures = {name: per_second(Finisher(options), utterances) for name, options in alone}
    if kiwi.is_installed():
        finisher = Finisher(FinishOptions(analyzer="kiwi", **everything))
        figures["everything, kiwi"] = per_second(finisher, utterances)
    return figures


def quality(folder: Path, show: Callable[[str], None]) -> dict[str, object]:
    """All figures of one folder of cases."""
    analyzers = ["kiwi", "rules"] if kiwi.is_installed() else ["rules"]
    return {
        "sentences": {
            f"{analyzer}{', times' if timed else ''}": sentence_figures(folder, analyzer, timed, show)
            for analyzer in analyzers
            for timed in (True, False)
        },
        "fillers": {
            f"{level}{', times' if timed else ''}": filler_figures(folder, level, timed, show)
            for level in ("sure", "aggressive")
            for timed in (True, False)
        },
        "spacing": {analyzer: spacing_figures(folder, analyzer, show) for analyzer in analyzers},
        "masks": mask_figures(folder, show),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--no-speed", action="store_true")
    parser.add_argument("--show", action="store_true", help="print what differs from the cases")
    parser.add_argument("--plain", type=Path, help="lines in which nothing is to be changed")
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    args = parser.parse_args()
    show: Callable[[str], None] = print if args.show else lambda line: None
    figures: dict[str, object] = {
        "cases": quality(CASES, show),
        "unseen": quality(CASES / "unseen", show),
    }
    if args.plain:
        figures["plain"] = plain_figures(args.plain, show)
    if not args.no_speed:
        figures["utterances_per_second"] = speed_figures()
    figures |= provenance(["kiwipiepy", "kiwipiepy_model"] if kiwi.is_installed() else [])
    text = json.dumps(figures, ensure_ascii=False, indent=1)
    print(text)
    if args.out:
        with atomic_write(args.out) as out:
            out.write(text + "\n")


if __name__ == "__main__":
    run_main(main)
