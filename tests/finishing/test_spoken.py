"""Written to spoken: every case of spoken.yaml and of cases/spoken.tsv, and what holds for any text."""

import csv
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.finishing import number_words, numbers
from ko_asr.finishing.data import read_yaml
from ko_asr.finishing.draft import Draft
from ko_asr.finishing.finisher import finish
from ko_asr.finishing.spoken import RULES, Speech, spoken
from ko_asr.finishing.words import written_words

BOOK = read_yaml(RULES)
RULE_CASES = [
    pytest.param(*case, id=f"{rule['name']}: {case[0]}") for rule in BOOK["rules"] for case in rule["cases"]
]
with (Path(__file__).parent / "cases/spoken.tsv").open(encoding="utf-8") as stream:
    SENTENCES = [
        pytest.param(row["written"], row["spoken"].split("|"), id=f"{row['class']}: {row['written']}")
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    ]


@pytest.mark.parametrize(("written", "said"), RULE_CASES)
def test_rule_case(written, said):
    assert spoken(written) == said


@pytest.mark.parametrize(("written", "accepted"), SENTENCES)
def test_sentence(written, accepted):
    assert spoken(written) in accepted


@given(st.text(st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3) | st.sampled_from(" .,?!~…\"'ㅋ\n")))
def test_hangul_and_punctuation_are_not_changed(text):
    assert spoken(text) == text


PIECES = [
    *("3", "05", "1,000", "12.5", "2024", "010-1234-5678", "3/4", "15:30", "-", "~", "%", "km/h", "만"),
    *("억", "천", "시", "분", "번", "번째", "명", "대", "월", "일", "년", "제", "이", "은", "에서", "KBS"),
    *("A", "WiFi", "kim@a.com", "$", "₩", "℃", "=", "+", "&", "(", ")", ".", ",", ":", "'", " ", "가"),
    *("no", "v", "www.", "·"),
]  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join) | st.text(max_size=30))
@example("1/1")
@example("3-4명")
def test_any_text_is_said_without_digits(text):
    said = spoken(text)
    assert not re.search(r"\d", said)
    assert spoken(said) == said or re.search("[A-Za-z]", said)


@given(st.integers(0, 10**16 - 1))
@example(10_000)
@example(100_010_000)
@example(11_110_000)
def test_sino_korean_words_have_their_value(number):
    said = number_words.sino(number)
    assert re.fullmatch(numbers.SINO, said) or number == 0
    assert numbers.value(said) == number


@given(st.integers(1, 999))
def test_counted_words_have_their_value(number):
    assert numbers.value(number_words.counted(number, 99)) == number


# Written forms that finishing writes in the default style: what is said for them comes back.
COMMAS = (
    st.integers(1_001, 99_999_999).filter(lambda number: number % 10_000).map(lambda number: f"{number:,}")
)
PLAIN = st.integers(11, 999).map(str)
COMES_BACK = st.one_of(
    COMMAS.map(lambda number: f"모두 {number}원입니다"),
    st.integers(11, 99).map(lambda number: f"사람이 {number}명 왔어요"),
    st.integers(2, 9999).map(lambda number: f"{number:,}만 원이에요"),
    PLAIN.map(lambda number: f"무게가 {number}kg이에요"),
    PLAIN.map(lambda number: f"길이가 {number}cm예요"),
    st.tuples(PLAIN, st.integers(1, 9)).map(lambda parts: f"{parts[0]}.{parts[1]}% 올랐어요"),
    st.tuples(st.integers(1990, 2040), st.integers(1, 12), st.integers(1, 31)).map(
        lambda day: f"{day[0]}년 {day[1]}월 {day[2]}일에 만나요"
    ),
    st.tuples(st.integers(1, 23), st.integers(2, 59)).map(lambda time: f"{time[0]}시 {time[1]}분에 만나요"),
    st.integers(11, 99).map(lambda number: f"{number}번째 순서예요"),
    st.tuples(st.integers(1000, 9999), st.integers(1000, 9999)).map(
        lambda parts: f"번호는 010-{parts[0]}-{parts[1]}입니다"
    ),
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(COMES_BACK)
def test_finishing_writes_what_was_said(written):
    assert finish(spoken(written)).text == written


@pytest.mark.parametrize("letter", BOOK["tables"]["letters"])
def test_letters_have_the_names_that_finishing_knows(letter):
    assert finish(spoken(f"K{letter}K 뉴스")).text == f"K{letter}K 뉴스"


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["2024년", "3월5일에", "오전10시", "KBS가", "$250를", "1/3이", "사람", "100km/h"])
    )
)
def test_every_word_knows_where_it_came_from(written):
    draft = Draft(written)
    Speech()(draft)
    words, dropped = written_words(draft, None)
    assert " ".join(word.text for word in words) == spoken(" ".join(written)) and not dropped
    assert [source for word in words for source in word.sources] == sorted(
        source for word in words for source in word.sources
    )
    assert {source for word in words for source in word.sources} == set(range(len(written)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("pattern: '<number> ?<%percent>'", "pattern: '(<number>'"), r"line \d+: this rule.*missing \)"),
        (("pattern: '<number> ?<%percent>'", "pattern: '<numer>'"), r"line \d+: this rule.*'numer'"),
        (("say: '{y}년'", "say: '{year}년'"), r"line \d+: this rule.*'year'"),
        (("call: groups", "call: grups"), r"line \d+: this rule.*grups"),
        (("rules:\n", "rules: [\n"), r"line \d+: not YAML"),
        (("begin: '", "began: '"), r"begin, pieces.*'begin'"),
    ],
)  # fmt: skip
def test_a_bad_rule_file_is_one_sentence_with_its_line(tmp_path, change, message):
    text = RULES.read_text("utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(UserError, match=message) as refused:
        Speech(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)
    if found := re.search(r"line (\d+): this rule", str(refused.value)):
        at = path.read_text("utf-8").splitlines().index(f"    {change[1]}")
        assert 0 < at - int(found[1]) < 6
