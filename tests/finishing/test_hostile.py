"""Texts, words and options that nobody means: time stays linear in the text, and what is wrong is said."""

import multiprocessing
import pickle
import signal
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from ko_asr.errors import UserError
from ko_asr.finishing.finisher import Finisher, finish
from ko_asr.finishing.masks import read_masks
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.spoken import spoken
from ko_asr.finishing.terms import read_terms

EVERYTHING = FinishOptions(
    disfluency_filter=True,
    disfluency_level="aggressive",
    spacing=True,
    punctuation=True,
    paragraph_splitter=True,
    profanity_filter=True,
    analyzer="rules",
    terms={"가 나": "A", "이었": "B", "서울 시청": "C"},
)
SIGNS = FinishOptions(
    style={"native": "all", "currency": "signs", "time": "colon", "date": "dashes", "ratio": "colon"}
)
WRITERS: dict[str, Callable[[str], object]] = {
    "numbers": Finisher(),
    "signs": Finisher(SIGNS),
    "everything": Finisher(EVERYTHING),
    "spoken": spoken,
}
# Each was quadratic or worse once: repeated to 100 KB it takes seconds, where it should, or days.
REPEATED = [
    "비 ", "에이", "골뱅이", "일일다시 ", "다시 천", "세 시 ", "일 점 ", "이 ", "일이삼사", "음 ", "뭐 ",
    "저는 나는 ", "시발 ", "이었", "가 나 ", "1.", "1", "0", "a@", "A-", "A1", "1,",
]  # fmt: skip
_DEADLINE_S = 60


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Break off what would run for hours; the right time is a few seconds on a slow machine."""

    def stop(number: int, frame: object) -> None:
        raise AssertionError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("piece", REPEATED)
def test_a_long_line_of_one_thing_is_done(piece: str):
    line = piece * (40_000 // len(piece.encode()))
    with deadline(_DEADLINE_S):
        for write in WRITERS.values():
            write(line)
            write(f"{line}그냥")


@pytest.mark.parametrize("text", ["일일" + "다시 천" * 60 + "가", "가" + "이었" * 3000 + "A"])
def test_no_pattern_has_many_ways_to_fail(text: str):
    with deadline(_DEADLINE_S):
        for write in WRITERS.values():
            write(text)


def test_a_run_of_fillers_goes_at_once_and_a_lone_word_stays():
    options = FinishOptions(disfluency_filter=True, disfluency_level="aggressive")
    assert finish("뭐 뭐 뭐 그냥 왔어", options).text == "그냥 왔어"


def test_many_terms_in_a_long_text_stay():
    written = finish("삼성 이천 원 " * 2000, FinishOptions(terms={"삼성 이천": "삼성 이천"})).text
    assert written == " ".join(["삼성 이천 원"] * 2000)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("티비 오만 원에 팔아요", "TV 5만 원에 팔아요"),
        ("디비디 이 차", "DVD 이 차"),
        ("아이오티 디아이와이 책", "IoT DIY 책"),
    ],
)
def test_an_abbreviation_before_what_may_be_a_letter(text: str, written: str):
    assert finish(text).text == written
    assert finish(written).text == written


def test_text_in_parts_of_syllables_is_composed():
    assert finish(unicodedata.normalize("NFD", "이천 원")).text == "2,000원"


@pytest.mark.parametrize("words", [[""], ["이천", "", "원"], ["이천 원"]])
def test_what_is_no_word_is_named(words: list[str]):
    with pytest.raises(UserError, match=r"word [01] is"):
        finish(words, EVERYTHING)


def test_words_may_come_one_by_one_and_without_times():
    assert finish(word for word in ["이천", "원"]).text == "2,000원"
    untimed = [SimpleNamespace(text=t, start_ms=None, end_ms=None, confidence=None) for t in ("이천", "원")]
    assert finish(untimed).words == finish("이천 원").words  # type: ignore[arg-type]
    assert finish(finish("이천 원").words).text == "2,000원"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"terms": None},
        {"terms": [("a", "b")]},
        {"terms": {"a": 1}},
        {"style": {"commas": ["none"]}},
        {"profanity": "바보"},
        {"profanity": (3,)},
        {"itn": "yes"},
        {"paragraph_max": 2.5},
        {"paragraph_max": "3"},
        {"disfluency_level": {}},
    ],
)
def test_an_option_of_another_kind_is_named(wrong: dict[str, object]):
    with pytest.raises(UserError, match=next(iter(wrong))):
        FinishOptions(**wrong)  # type: ignore[arg-type]


def test_a_list_of_the_users_own_has_no_patterns():
    options = FinishOptions(
        profanity_filter=True, profanity=["[가-힣]+", "나|다", "\\"], terms={"(": "\\1", "[마": "$1"}
    )
    assert finish("가 나 다 나|다 ( [마", options).text == "가 나 다 *** \\1 $1"
    with pytest.raises(UserError, match="is no entry"):
        Finisher(FinishOptions(profanity_filter=True, profanity=["(가) ~"]))


def test_finishers_and_options_go_to_other_processes():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(Finisher(), ["이천 원"]) == [finish("이천 원")]
    assert pickle.loads(pickle.dumps(EVERYTHING)) == EVERYTHING


def test_finishers_share_what_their_options_share():
    one, other = (Finisher(FinishOptions(punctuation=True, paragraph_max=most)) for most in (5, 6))
    assert one._stages == other._stages


def test_large_units_in_no_order_are_no_sum_of_money():
    assert finish("이억 육억 천이백 엔", SIGNS).text == "2억 6억 1,200엔"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("일오팔팔에 이삼사오육칠팔입니다", "1588에 2345678입니다"),
        ("일삼오육칠 사 층 맞죠", "13567 4층 맞죠"),
    ],
)
def test_a_code_ends_where_another_number_begins(text: str, written: str):
    assert finish(text).text == written
    assert finish(written).text == written


@pytest.mark.parametrize("read", [read_terms, read_masks])
def test_a_list_without_an_end_is_refused(read: Callable[[Path], object]):
    with pytest.raises(UserError, match="longer than 4 MiB"):
        read(Path("/dev/zero"))
