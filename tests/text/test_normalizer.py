"""Text rules: every case written in rules.yaml, and the properties that hold for any line."""

import pickle
import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.text.normalizer import (
    EMPTY,
    KSPONSPEECH,
    PLAIN,
    Normalizer,
    default_options,
    normalize,
    rule_book,
)

BOOK = rule_book()
RULE_CASES = [
    pytest.param(rule, *case, id=f"{rule['name']}: {case[0]}")
    for rule in BOOK["rules"]
    for case in rule.get("cases", ())
]
PROFILE_CASES = [
    pytest.param(name, case, id=f"{name}: {case['raw']}")
    for name, profile in BOOK["profiles"].items()
    for case in profile["cases"]
]
SIDES = BOOK["options"]["side"]["values"]


def first(value):
    return value if isinstance(value, str) else value[0]


@pytest.mark.parametrize(("rule", "before", "after"), RULE_CASES)
def test_rule_case(rule, before, after):
    options = {name: first(value) for name, value in rule.get("when", {}).items()}
    style = rule.get("styles", [KSPONSPEECH])[0]
    steps = [s for s in Normalizer(style, **options)._steps if s.name == rule["name"]]
    assert len(steps) == 1, "two rules of one name hold at once"
    assert steps[0].act(before) == after


@pytest.mark.parametrize("case", BOOK["cases"], ids=lambda case: case["raw"])
@pytest.mark.parametrize("side", SIDES)
def test_pipeline_case(case, side):
    cleaned = Normalizer(side=side, **case.get("options", {})).clean(case["raw"])
    assert (cleaned.reason, cleaned.text) == (case.get("reject", ""), case.get(side, ""))


@pytest.mark.parametrize(("name", "case"), PROFILE_CASES)
def test_profile_case(name, case):
    sides = [side for side in SIDES if side in case or "reject" in case]
    assert sides
    for side in sides:
        cleaned = Normalizer(profile=name, side=side).clean(case["raw"])
        assert (cleaned.reason, cleaned.text) == (case.get("reject", ""), case.get(side, ""))


def test_every_rule_is_reachable_and_has_a_case_or_a_reason():
    for rule in BOOK["rules"]:
        assert "cases" in rule or "reject" in rule or rule["call"] == "stand_alone_jamo", rule["name"]
        for name, value in rule.get("when", {}).items():
            values = [value] if isinstance(value, str) else value
            assert set(values) <= set(BOOK["options"][name]["values"]), rule["name"]
    assert len({rule["name"] for rule in BOOK["rules"]}) == len(BOOK["rules"])


PIECES = [
    *("(20년)/(이십 년)", "(1/3)/(삼 분의 일)", "(70%)(칠 십 퍼센트)", "(20)/(이십)+", "(웃음)", ") / ("),
    *("b/", "l/", "o/", "n/", "u/", "어/", "사+", "+사자", "가+나", "*", "KBS", "1,000", "3.5", "it's", "%"),
    *("(", ")", "/", "+", ".", ",", "?", "!", "~", "_", "-", " ", "\t", "\u200b", "\ufeff", "\u3000", "#"),
    *(
        "ㅋㅋ",
        "ㅠ",
        "각",
        "\u1112",
        "\u11ab",
        "ＡＢ",
        "％",
        "İ",
        "é",
        "가",
        "값",
        "1",
        "漢",
        "\u0301",
        "ﾡ",
        "'",
    ),
]
LINES = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join),
    st.text(max_size=40),
)
OPTIONS = st.fixed_dictionaries({n: st.sampled_from(o["values"]) for n, o in BOOK["options"].items()})


@settings(max_examples=1500, deadline=None)
@given(line=LINES, options=OPTIONS, style=st.sampled_from([KSPONSPEECH, PLAIN]))
@example(line="b/ l/ +", options=default_options(), style=KSPONSPEECH)
def test_what_comes_out_is_clean(line, options, style):
    normalizer = Normalizer(style, **options)
    cleaned = normalizer.clean(line)
    text = cleaned.text
    assert bool(text) != bool(cleaned.reason)
    if not text:
        return
    assert unicodedata.is_normalized("NFC", text)
    assert text == " ".join(text.split())
    assert re.search(r"\w", text)
    assert not re.search(r"[()*_#]|\s[/+]|[/+]\s|(?<![A-Za-z\d])[blonu]/", text)
    again = normalizer.clean(text)
    assert again.text == text or again.reason in ("digits", "Latin letters"), again


@settings(max_examples=300, deadline=None)
@given(line=LINES)
def test_nfd_comes_out_as_nfc_does(line):
    assert normalize(unicodedata.normalize("NFD", line)) == normalize(unicodedata.normalize("NFC", line))


def test_reasons_and_rules_are_told():
    cleaned = Normalizer().clean("b/ (20년) / (이십 년)")
    assert cleaned.text == "20년" and {"noise tags", "dual, written side"} <= set(cleaned.fired)
    assert Normalizer().clean("b/").reason == EMPTY


def test_pickles_for_worker_processes():
    normalizer = pickle.loads(pickle.dumps(Normalizer(side="phonetic", fillers="drop")))
    assert normalizer("어/ (20)/(이십) b/") == "이십"


def test_bad_options():
    for arguments in ({"side": "left"}, {"colour": "red"}, {"profile": "nobody"}, {"style": "nobody"}):
        with pytest.raises(UserError, match="choose"):
            Normalizer(**arguments)
