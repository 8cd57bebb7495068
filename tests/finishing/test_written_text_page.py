"""docs/written-text.md holds what the code does: its examples are run, its tables are the rule book's."""

import argparse
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from ko_asr.finishing import command
from ko_asr.finishing.finisher import Finisher, finish
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.rule_book import rule_book
from ko_asr.recognition.cues import RULES

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "written-text.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    return re.split(r"^##+ ", PAGE.partition(f"## {heading}\n")[2], flags=re.MULTILINE)[0]


def table(heading: str) -> list[list[str]]:
    """The cells of the rows of a section's table, without its head."""
    rows = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


STYLES = [
    (name.strip("`"), *re.fullmatch(r"`(\w+)`: (.+)", value).groups(), spoken)
    for name, spoken, values in table("Styles")
    for value in values.split(" · ")
]


@pytest.mark.parametrize(("spoken", "written"), [row[1:] for row in table("The default style")])
def test_examples(spoken: str, written: str) -> None:
    assert finish(spoken).text == written


def test_all_styles_are_there_with_their_values_and_the_default_first() -> None:
    book = rule_book()["options"]
    shown: dict[str, list[str]] = {}
    for name, value, _, _ in STYLES:
        shown.setdefault(name, []).append(value)
    assert list(shown) == list(book)
    for name, values in shown.items():
        assert sorted(values) == sorted(book[name]["values"]) and values[0] == book[name]["default"]


@pytest.mark.parametrize(("name", "value", "written", "spoken"), STYLES)
def test_styles(name: str, value: str, written: str, spoken: str) -> None:
    assert Finisher(FinishOptions(style={name: value}))(spoken).text == written


def test_all_options_are_there() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
    rows = table("Options")
    assert {re.match(r"`(--[\w-]+)", row[0])[1] for row in rows} == flags
    named = {name for row in rows for name in re.findall(r"`(\w+)", row[1])}
    assert named == {one.name for one in fields(FinishOptions)}


def test_the_json_is_what_comes_out() -> None:
    (block,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    shown = json.loads(block)
    assert shown == {"spoken": shown["spoken"]} | finish(shown["spoken"]).to_json()


def test_the_python_is_right(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(block, "written-text.md", "exec"), {})
    first, *words = capsys.readouterr().out.splitlines()
    assert first == re.search(r"text\)  # (.+)", block)[1]
    assert words == ["15000원 [0, 1, 2]".replace("[", "(").replace("]", ")"), "냈어요 (3,)"]


def test_the_example_of_a_rule_is_one() -> None:
    import yaml

    (block,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (shown,) = yaml.safe_load(block)
    (rule,) = [rule for rule in rule_book()["rules"] if rule["name"] == shown["name"]]
    assert {**rule, **shown} == rule


def test_figures_of_subtitles() -> None:
    text = section("Subtitles")
    assert f"| {RULES.line:g} | `--line-length` |" in text and f"| {RULES.lines} | `--lines` |" in text
    assert RULES.shortest_ms == round(5000 / 6) and RULES.longest_ms == 7000
    assert f"({RULES.gap_ms} ms)" in text and f"{RULES.characters_per_second:g} characters a second" in text
