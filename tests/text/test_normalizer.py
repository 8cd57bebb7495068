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
        assert set(rule.get("styles", ())) <= set(BOOK["styles"]), rule["name"]
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


# Raw pieces with what is said in them, on the written and on the spoken side.
SAID = {
    KSPONSPEECH: [
        *((word, word, word) for word in ("그래", "아니", "값", "사람이", "3월")),
        *(
            (f"(20개){sign}(스무 개)", "20개", "스무개")
            for sign in ("/", " / ", "?", ":", "!", "//", "/+", "+/")
        ),
        *(
            (f"(20개){sign}(스무 개)*", "20개", "스무개")
            for sign in ("*/", "/n/", " n/ ", "", "  ", " / b/ ")
        ),
        *((f"(20개){sign}(스무 개)", "20개", "스무개") for sign in (",", "~", " u/ ", "/n", "./", "*/n/")),
        *((f"(웃다){sign}(울다)", "웃다", "울다") for sign in ("/", " ", ", ", " n/ ", "?")),
        *(
            ("（20개）／（스무 개）", "20개", "스무개"),
            ("()/(하나)", "하나", "하나"),
            ("(20)/()", "20", "20"),
        ),
        *(
            ("(하나)/(둘)/(셋)", "하나", "둘"),
            ("((하나)/(둘))", "하나", "둘"),
            ("(하나)(둘)(셋)", "하나", "둘"),
        ),
        *(
            ("(하나)/둘", "하나", "둘"),
            ("하나/(둘)", "하나", "둘"),
            ("(하나/(둘)", "하나", "둘"),
            ("하나)", "하나", "하나"),
        ),
        *((tag, "", "") for tag in ("n/", "b/", "o/n/", "u/u/", "b/l/n/", '"n/b/"', "N/")),
        *(("n/그래", "그래", "그래"), ("그래n/", "그래", "그래"), ("어/", "어", "어"), ("사+", "사", "사")),
        *(("+사", "사", "사"), ("그*래", "그래", "그래"), ("초ㆍ중", "초중", "초중"), ("5㎞", "5km", "5km")),
    ],
    PLAIN: [
        *(
            (word, word, word)
            for word in ("그래", "아니", "값", "3월", "남/여", "(하나)/(둘)", "(하나) n/ (둘)")
        ),
        *(
            (raw, "그래", "그래")
            for raw in ("그래.", "그래/", "그래+", "n/그래", "(SN:그래)", "그래~", "그,래")
        ),
        *(
            (raw, "하나둘", "하나둘")
            for raw in ("(하나) (둘)", "((하나) 둘)", "하나ㆍ둘", "하나×둘", "[하나]/[둘]")
        ),
    ],
    "aihub": [
        *((word, word, word) for word in ("그래", "아니", "값", "3월")),
        *(
            (raw, "그래", "그래")
            for raw in ("(SN:그래)", "(FP: 그래 )", "(sn:(FP:그)래)", "(SN:그래", "(XX:그래)")
        ),
        *(
            (raw, "그래", "그래")
            for raw in ("(SN;그래)", "(SN:(SP:(FP:그(NO:))래))", "(NO:(SN:그래))", "n/그래")
        ),
        *(("(NO:)", "", ""), ("(NO:웃음)", "", "")),
    ],
}
LOSSES = {"other brackets dropped", "spoken sign lost", "spoken sign lost at a word"}


@pytest.mark.parametrize("style", SAID)
@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_no_word_is_lost_without_a_word(style, side, data):
    pieces = data.draw(st.lists(st.sampled_from(SAID[style]), min_size=1, max_size=6))
    cleaned = Normalizer(style, side=side).clean(" ".join(raw for raw, *_ in pieces))
    said = "".join(piece[1 + SIDES.index(side)] for piece in pieces)
    heard = re.sub(r"\W", "", cleaned.text)
    assert cleaned.reason or heard == re.sub(r"\W", "", said) or LOSSES & set(cleaned.fired)


@pytest.mark.parametrize(
    "piece", [piece for pieces in SAID.values() for piece in pieces if piece[0]], ids=lambda p: p[0]
)
def test_a_piece_alone_says_what_is_lost(piece):
    """One piece between two words: nothing but a sign may go, and no number joins another."""
    style = next(style for style, pieces in SAID.items() if piece in pieces)
    cleaned = Normalizer(style).clean(f"앞 {piece[0]} 뒤")
    assert cleaned.reason or re.sub(r"\W", "", cleaned.text) == "앞" + re.sub(r"\W", "", piece[1]) + "뒤"


NUMBERS_AND_SIGNS = ["3", "14", *"·ㆍ×÷=,;&'\"→~_-/①½²㎡:.+"]


@pytest.mark.parametrize("style", BOOK["styles"])
@given(line=st.lists(st.sampled_from(NUMBERS_AND_SIGNS), min_size=2, max_size=9).map("".join))
@settings(max_examples=300, deadline=None)
def test_numbers_never_run_into_one(style, line):
    numbers = re.findall(r"[0-9]+", re.sub(r"[①½²㎡]", " ", line))
    heard = re.findall(r"[0-9]+", Normalizer(style)(line))
    assert not set(heard) - set(numbers) - {"1", "2"} or re.search(r"\d,\d{3}", line)


@pytest.mark.parametrize("line", ["\u1112\u119e\u11ab글", "ㅿ", "가\u11c3", "\u1140\u1161\u11a8"])
@pytest.mark.parametrize("jamo", BOOK["options"]["stand_alone_jamo"]["values"])
def test_old_letters_stay(line, jamo):
    assert normalize(line, PLAIN, stand_alone_jamo=jamo) == line


def test_nesting_is_bounded():
    """A line of brackets only costs no more than its length a pass."""
    cleaned = Normalizer("aihub").clean("(SN:" * 20_000 + ")" * 20_000)
    assert cleaned.reason


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
