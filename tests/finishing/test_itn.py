"""Inverse text normalisation: every case of the rules, and what holds for any text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.finishing import numbers
from ko_asr.finishing.data import read_yaml
from ko_asr.finishing.finisher import Finisher, finish
from ko_asr.finishing.itn import Itn
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.rule_book import rule_book
from ko_asr.runtime.results import Word

CASES = [(rule["name"], *case) for rule in rule_book()["rules"] for case in rule["cases"]]
SPOKEN = [spoken for _, spoken, *_ in CASES]
WORDS = {word for spoken in SPOKEN for word in spoken.split()}
PIECES = sorted(WORDS | set("이일삼십백천만억조시분원점대한두에는"))
texts = st.lists(st.sampled_from(PIECES), max_size=9)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}: {case[1]}")
def test_a_case_of_a_rule(case) -> None:
    _, spoken, written, *style = case
    options = FinishOptions(style=style[0]) if style else None
    assert finish(spoken, options).text == written
    assert finish(written, options).text == written


def test_every_rule_has_a_case_that_needs_it() -> None:
    for rule in rule_book()["rules"]:
        assert any(
            without(rule["name"], *style).edits(spoken) != Itn(*style).edits(spoken)
            for spoken, _, *style in rule["cases"]
        ), f"no case of {rule['name']} needs it"


def without(name: str, style: dict[str, str] | None = None) -> Itn:
    itn = Itn(style)
    itn._ranked = [(rule, kinds) for rule, kinds in itn._ranked if rule.name != name]
    itn._anywhere = tuple(rule for rule in itn._anywhere if rule.name != name)
    itn._bits = itn._bits_of_letters()
    itn._always = sum(1 << number for number, (rule, _) in enumerate(itn._ranked) if not rule.letters)
    return itn


@given(texts)
def test_every_word_is_a_source_or_dropped(words: list[str]) -> None:
    written = finish(words)
    used = [number for word in written.words for number in word.sources]
    assert set(used) | set(written.dropped) == set(range(len(words)))
    assert used == sorted(used)
    assert written.text == " ".join(word.text for word in written.words)
    assert unicodedata.is_normalized("NFC", written.text)


@given(texts)
def test_a_second_pass_changes_nothing(words: list[str]) -> None:
    once = finish(words).text
    assert finish(once).text == once


@given(texts)
def test_letters_spare_time_only(words: list[str]) -> None:
    every = Itn()
    every._bits = {letter: -1 for letter in "".join(words)}
    assert every.edits(" ".join(words)) == Itn().edits(" ".join(words))


@given(st.text(max_size=60))
def test_any_text_is_taken(text: str) -> None:
    assert finish(text).text.split() == finish(text.split()).text.split()


def test_times_follow_the_characters() -> None:
    heard = (("이천이십오년십이월", 0, 900, 0.8), ("삼십", 1000, 1200, 0.7), ("일까지", 1200, 1500, 0.9))
    written = finish([Word(*word) for word in heard])
    assert written.text == "2025년 12월 30일까지"
    assert [word.sources for word in written.words] == [(0,), (0,), (1, 2)]
    assert [(word.start_ms, word.end_ms) for word in written.words] == [(0, 600), (600, 900), (1000, 1500)]
    assert [word.confidence for word in written.words] == [0.8, 0.8, 0.7]


@given(st.integers(1, 10**16 - 1))
def test_numbers_are_read_back(number: int) -> None:
    assert numbers.value(spelt(number)) == number


def spelt(number: int) -> str:
    """Sino-Korean, with 일 before large units only."""
    parts = []
    for size, unit in ((10**12, "조"), (10**8, "억"), (10**4, "만"), (1, "")):
        part, number = divmod(number, size)
        if part:
            parts.append(("" if part == 1 and unit == "만" else small(part)) + unit)
    return "".join(parts)


def small(number: int) -> str:
    text = ""
    for size, unit in ((1000, "천"), (100, "백"), (10, "십"), (1, "")):
        digit, number = divmod(number, size)
        if digit:
            text += ("" if digit == 1 and unit else "영일이삼사오육칠팔구"[digit]) + unit
    return text


@pytest.mark.parametrize(
    ("style", "said"),
    [
        ({"comma": "none"}, "style has no option 'comma': it has commas, "),
        ({"commas": "some"}, "style commas is 'some': it takes counts, none"),
    ],
)
def test_a_style_that_does_not_exist(style, said) -> None:
    with pytest.raises(UserError, match=said):
        Finisher(FinishOptions(style=style))


@pytest.mark.parametrize("data", [b"rules: [", "규칙: 1".encode("cp949")])
def test_a_rule_file_that_cannot_be_read_is_named(tmp_path, data: bytes) -> None:
    path = tmp_path / "itn.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"itn\.yaml"):
        read_yaml(path)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("no", "written is true or an object"),
        ({"numbers": True}, "written has no option 'numbers'"),
        ({"itn": "yes"}, "written.itn is true or false"),
        ({"paragraph_max": True}, "written.paragraph_max is a whole number"),
        ({"terms": {"가": 1}}, "written.terms is an object of strings"),
        ({"terms": {str(one): "가" for one in range(1001)}}, "written.terms has 1,001 entries: a request or"),
        ({"profanity": ["가"] * 501}, "written.profanity has 501 entries: a request or"),
    ],
)
def test_options_that_cannot_be_read(data, said) -> None:
    with pytest.raises(UserError, match=said):
        FinishOptions.from_json(data)


def test_options_survive_json() -> None:
    options = FinishOptions(punctuation=True, style={"commas": "none"}, terms={"케이티": "KT"})
    assert FinishOptions.from_json(options.to_json()) == options
    assert FinishOptions.from_json(True) == FinishOptions()
