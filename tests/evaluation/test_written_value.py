"""What is style and what is value in a written text, and the spans between a spoken and a written one."""

import pytest

from ko_asr.evaluation.written_score import span_counts, spans
from ko_asr.evaluation.written_value import folded

SAME = [
    ("₩15,000", "15,000원", "15000 원", "1만 5,000원", "1만 5천 원"),
    ("₩3,500,000,000,000", "3조 5,000억 원", "3조 5천억원"),
    ("₩500,000,000,000", "5,000억"),
    ("다 해서 ₩10,000", "다 해서 1만 원", "다 해서 만 원"),
    ("한 사람당 15,000원", "한 사람당 만 5천원", "한 사람당 만5천 원"),
    ("1.5만", "15,000"),
    ("$1,500", "1,500달러", "1500불"),
    ("¥20", "20위안", "20엔"),
    ("오후 4:30", "오후 4시 30분", "오후 4시 반", "오후4시반"),
    ("2:00:05", "2시 5초"),
    ("2:00 전", "2시 전"),
    ("15시 05분", "15:05", "15시 5분"),
    ("2024년 3월 5일", "2024-03-05", "2024년3월5일", "2024년 03월 05일"),
    ("6 대 4", "6:4", "6대 4"),
    ("-10 °", "영하 10도", "-10°C", "-10℃"),
    ("100 m²", "100㎡", "100제곱미터"),
    ("12.195 km", "12.195킬로미터"),
    ("100 km/h", "100킬로미터퍼시간"),
    ("30.5 %", "30.5퍼센트", "30.5프로"),
    ("15%포인트", "15%p", "15퍼센트포인트"),
    ("1 1/2", "1과 2분의 1", "1과 1/2"),
    ("-2 1/10", "-2와 10분의 1", "마이너스 2와 10분의 1"),
    ("-√25/5", "-5분의 루트 25"),
    ("010-1234-5678", "010 1234 5678", "01012345678"),
    ("1577-9000", "1577-9000번"),
    ("1번째", "첫 번째", "첫번째"),
    ("사과 3개하고 2명", "사과 세 개하고 두 명"),
    ("KBS를 봤다", "kbs를 봤다", "ＫＢＳ를 봤다"),
]
DIFFERENT = [
    ("15,000원", "10000 5000원"),
    ("70%", "7 10 %"),
    ("52", "5 2"),
    ("오후 4:30", "오후 네 시 반"),
    ("1.5", "15"),
    ("2시 3분", "23분"),
    ("이 사람", "2 사람"),
    ("한번 해 보세요", "1번 해 보세요"),
    ("3-5", "35"),
    ("-5도", "5도"),
    ("20달러", "20원"),
    ("1/3", "3/1"),
    ("5,175만 명", "5,175명"),
    ("만 19세", "10,019세"),
    ("2억 5천만", "2억 5천"),
]


@pytest.mark.parametrize("texts", SAME, ids=lambda texts: texts[0])
def test_styles_of_one_value_are_equal(texts):
    assert {folded(text) for text in texts} == {folded(texts[0])}


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_other_values_stay_different(one, other):
    assert folded(one) != folded(other)


def test_text_without_digits_loses_only_spaces_and_case():
    assert folded("만일 이 사람이 오면 조용히 구경만 하세요") == "만일이사람이오면조용히구경만하세요"


def test_spans_lie_where_the_forms_differ():
    assert spans("이천이십사년삼월에", "2024년3월에") == [(0, 4), (5, 6)]
    assert spans("그대로", "그대로") == []
    assert spans("다섯개", "5개") == [(0, 1)]


def test_span_counts_tell_wrong_missing_and_added():
    spoken, written = "세시에이십명이", "3시에20명이"
    right = span_counts(spoken, written, spoken, written)
    assert (right.reference, right.found, right.hypothesis, right.right) == (2, 2, 2, 2)
    missing = span_counts(spoken, written, spoken, "3시에이십명이")
    assert (missing.found, missing.hypothesis, missing.right) == (1, 1, 1)
    added = span_counts(spoken, written, spoken, "3시에20명2")
    assert (added.found, added.hypothesis, added.right) == (2, 3, 2)
    # a digit put in front of a right one makes another number
    wrong = span_counts(spoken, written, spoken, "13시에20명이")
    assert (wrong.found, wrong.right) == (1, 1)
    # a span counts where recognition is wrong elsewhere
    heard = span_counts(spoken, written, "세시예이십명이", "3시예20명이")
    assert (heard.found, heard.right) == (2, 2)
