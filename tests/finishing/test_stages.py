"""The stages around numbers: every case of their lists, what holds for any text, and how well they do."""

import json
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.finishing import kiwi
from ko_asr.finishing.finisher import Finisher, finish
from ko_asr.finishing.masks import read_masks
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.terms import read_terms
from ko_asr.finishing.word_lists import word_lists

ROOT = Path(__file__).parents[2]
needs_kiwi = pytest.mark.skipif(not kiwi.is_installed(), reason="kiwipiepy is not installed: make setup-kiwi")
TERMS = {"챗 지피티": "ChatGPT", "지피티": "GPT", "서울 시청": "서울특별시청", "일이삼 카페": "일이삼카페"}
EVERYTHING = {
    "disfluency_filter": True, "spacing": True, "punctuation": True, "profanity_filter": True,
    "paragraph_splitter": True, "terms": TERMS,
}  # fmt: skip
SPOKEN = """
어 음 그 저 이제 막 뭐 저는 사 사자가 회의 회의가 학교 에서 밥을먹었어요 갔습니다 왔어요 했어 하고 왜 어디예요
이천이십사년 삼월 오일에 만 오천 원 일 이 삼 카페 챗 지피티 지피티를 서울 시청에 씨발 새끼 씨발놈아 아니면 네
좋아 있는데요 을 습니다 했다 중요 그래서 그리고 세 시 삼십 분에요 일이삼 2024년 갔다. 뭐? * …
"""
WORDS = SPOKEN.split()


@dataclass(frozen=True)
class Word:
    text: str
    start_ms: int
    end_ms: int
    confidence: float = 0.9
    syllables: tuple = ()


def spoken(*words: tuple[str, int, int]) -> list[Word]:
    return [Word(*word) for word in words]


def listed(*path: str):
    found = word_lists()
    for name in path:
        found = found[name]
    return pytest.mark.parametrize("case", found, ids=lambda case: case[0])


def only(**options: object) -> Finisher:
    return Finisher(FinishOptions(itn=False, **options))


@listed("fillers", "cases")
def test_a_case_of_fillers(case) -> None:
    assert only(disfluency_filter=True)(case[0]).text == case[1]


@listed("fillers", "aggressive_cases")
def test_a_case_of_aggressive_fillers(case) -> None:
    assert only(disfluency_filter=True, disfluency_level="aggressive")(case[0]).text == case[1]


@listed("repetitions", "cases")
def test_a_case_of_repetitions(case) -> None:
    assert only(disfluency_filter=True)(case[0]).text == case[1]


@listed("spacing", "cases")
def test_a_case_of_spacing_without_kiwi(case) -> None:
    assert only(spacing=True, analyzer="rules")(case[0]).text == case[1]


@needs_kiwi
@listed("spacing", "kiwi_cases")
def test_a_case_of_spacing_with_kiwi(case) -> None:
    assert only(spacing=True, analyzer="kiwi")(case[0]).text == case[1]


@listed("sentences", "cases")
@pytest.mark.parametrize("analyzer", ["rules", pytest.param("kiwi", marks=needs_kiwi)])
def test_a_case_of_sentences(analyzer, case) -> None:
    assert only(punctuation=True, analyzer=analyzer)(case[0]).text == case[1]


@st.composite
def utterances(draw) -> list[Word]:
    """Words of any kind with times, one behind the other."""
    words, at = [], 0
    for text in draw(st.lists(st.sampled_from(WORDS), max_size=10)):
        at += draw(st.sampled_from([0, 60, 300, 1500]))
        length = draw(st.sampled_from([100, 500]))
        words.append(Word(text, at, at + length))
        at += length
    return words


@given(utterances(), st.sampled_from(["sure", "aggressive"]))
def test_words_follow(words: list[Word], level: str) -> None:
    written = Finisher(FinishOptions(**EVERYTHING, disfluency_level=level, analyzer="rules"))(words)
    check_words(written, words)


@needs_kiwi
@given(utterances())
@settings(deadline=None, max_examples=200)
def test_words_follow_with_kiwi(words: list[Word]) -> None:
    check_words(Finisher(FinishOptions(**EVERYTHING, analyzer="kiwi"))(words), words)


def check_words(written, words) -> None:
    used = [number for word in written.words for number in word.sources]
    assert set(used) | set(written.dropped) == set(range(len(words)))
    assert not set(used) & set(written.dropped)
    assert used == sorted(used)
    assert written.text == " ".join(word.text for word in written.words)
    assert unicodedata.is_normalized("NFC", written.text)
    assert all(word.start_ms <= word.end_ms for word in written.words)
    starts = range(len(written.words))
    for begins in (written.sentences, written.paragraphs):
        assert list(begins) == sorted(set(begins)) and set(begins) <= set(starts)
        assert (begins[:1] == (0,)) is bool(written.words)
    assert set(written.paragraphs) <= set(written.sentences)


@given(st.lists(st.sampled_from(WORDS), max_size=10), st.sampled_from(["sure", "aggressive"]))
def test_a_second_pass_changes_nothing(words: list[str], level: str) -> None:
    finisher = Finisher(FinishOptions(**EVERYTHING, disfluency_level=level, analyzer="rules"))
    once = finisher(words).text
    assert finisher(once).text == once


def test_nothing_to_do_changes_nothing() -> None:
    text = "제가 오늘 아침에 이 사람을 만났습니다. 왜 그랬을까요?"
    written = finish(text, FinishOptions(**EVERYTHING))
    assert written.text == text
    assert written.sentences == (0, 6)


# ---- terms --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("챗 지피티를 써 봤어", "ChatGPT를 써 봤어"),
        ("챗지피티는 지피티의 하나예요", "ChatGPT는 GPT의 하나예요"),
        ("서울시청에서 만나", "서울특별시청에서 만나"),
        ("지피티아이라는 회사", "지피티아이라는 회사"),
        ("서울 시청률이 높다", "서울 시청률이 높다"),
        ("일이삼 카페에서 삼십 분 뒤에", "일이삼카페에서 30분 뒤에"),
    ],
)
def test_terms(text: str, expected: str) -> None:
    assert finish(text, FinishOptions(terms=TERMS)).text == expected


def test_a_term_of_as_many_words_keeps_their_times() -> None:
    words = spoken(("오픈", 0, 200), ("에이아이가", 300, 700))
    written = finish(words, FinishOptions(terms={"오픈 에이아이": "Open AI"}))
    assert [(word.text, word.sources, word.start_ms) for word in written.words] == [
        ("Open", (0,), 0),
        ("AI가", (1,), 300),
    ]


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        ("카카오 -> Kakao\n\n네이버 ->\n", 3, "write spoken -> written"),
        ("# 회사\n\t삼성\n", 2, "write spoken -> written"),
        ("카카오\n", 1, "write spoken -> written"),
        ("카카오 -> Kakao\n카카오\t카카오톡\n", 2, "keep one"),
        ("카카오 -> Kakao\n네이버 -> NAVER\n".encode("cp949"), 1, "UTF-8"),
    ],
)
def test_a_bad_list_of_terms_is_one_sentence(
    tmp_path: Path, data: str | bytes, line: int, reason: str
) -> None:
    path = tmp_path / "terms.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=rf"terms\.txt, line {line}: .*{reason}"):
        read_terms(path)


def test_a_list_of_terms(tmp_path: Path) -> None:
    path = tmp_path / "terms.txt"
    path.write_text("\ufeff# 말 -> 글\n챗 지피티 → ChatGPT\n씨 샵\tC#\n", encoding="utf-8")
    assert read_terms(path) == {"챗 지피티": "ChatGPT", "씨 샵": "C#"}
    with pytest.raises(UserError, match="no file"):
        read_terms(tmp_path / "no file")


def test_a_session_term_with_an_empty_side() -> None:
    with pytest.raises(UserError, match="empty side"):
        Finisher(FinishOptions(terms={"카카오": " "}))


# ---- fillers ------------------------------------------------------------------------------------


def test_a_word_between_pauses_that_is_held_is_a_filler() -> None:
    filler = only(disfluency_filter=True)
    held = spoken(("저는", 0, 300), ("그", 700, 1200), ("학생인데요", 1500, 2200))
    assert filler(held).text == "저는 학생인데요"
    assert filler(held).dropped == (1,)
    short = spoken(("저는", 0, 300), ("그", 700, 800), ("학생인데요", 1500, 2200))
    assert filler(short).text == "저는 그 학생인데요"


# ---- sentences ----------------------------------------------------------------------------------


def test_numbers_do_not_move_the_ends_of_sentences() -> None:
    written = finish(
        "이천이십사년 삼월 오일입니다 만 오천 원이에요 언제 와요", FinishOptions(punctuation=True)
    )
    assert written.text == "2024년 3월 5일입니다. 15,000원이에요. 언제 와요?"
    assert written.sentences == (0, 3, 4)


def test_silence_ends_a_casual_sentence() -> None:
    marks = only(punctuation=True, analyzer="rules")
    assert marks(spoken(("밥", 0, 200), ("먹었지", 250, 600), ("응", 1200, 1300))).text == "밥 먹었지. 응."
    assert marks(spoken(("밥", 0, 200), ("먹었지", 250, 600), ("뭐", 640, 800))).text == "밥 먹었지 뭐."


def test_a_missing_kiwi_names_the_target(monkeypatch) -> None:
    monkeypatch.setattr(kiwi, "is_installed", lambda: False)
    with pytest.raises(UserError, match="make setup-kiwi"):
        only(punctuation=True, analyzer="kiwi")
    assert only(punctuation=True)("네 알겠습니다").text == "네 알겠습니다."


@needs_kiwi
def test_threads_share_one_kiwi() -> None:
    texts = [case[0] for case in word_lists()["sentences"]["cases"]] * 20
    finisher = only(punctuation=True, spacing=True, analyzer="kiwi")
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(finisher, texts)) == [finisher(text) for text in texts]
        assert len({id(one) for one in threads.map(lambda _: kiwi.load(), range(8))}) == 1


# ---- masks --------------------------------------------------------------------------------------


def test_the_first_character_may_stay() -> None:
    assert only(profanity_filter=True, profanity_keep_first=True)("야 씨발 뭐야").text == "야 씨* 뭐야"


def test_numbers_are_no_profanity() -> None:
    assert finish("십팔 세 이상입니다", FinishOptions(profanity_filter=True)).text == "18세 이상입니다"


def test_a_list_of_your_own_replaces_the_built_in_one(tmp_path: Path) -> None:
    path = tmp_path / "masks.txt"
    path.write_text("# 우리 목록\n\n멍청이: 멍청이 바보\n(이) 바보\n느림보~\n", encoding="utf-8")
    masks = only(profanity_filter=True, profanity=tuple(read_masks(path)))
    assert masks("씨발 멍청이들아 이 바보야 바보 느림보라니까").text == "씨발 ***들아 이 **야 바보 ***라니까"
    assert masks("멍청이 바보").text == "멍청이 바보"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("바보\n~\n", r"masks\.txt, line 2: '~' is no entry"),
        ("바보\n: 바보 온달\n", r"masks\.txt, line 2: ': 바보 온달' is no entry"),
        ("# 바보\n\n", r"masks\.txt: holds no word"),
        ("바보\n멍청이\n".encode("utf-16"), r"masks\.txt, line 1: not UTF-8"),
    ],
)
def test_a_bad_list_of_masks_is_one_sentence(tmp_path: Path, data: str | bytes, message: str) -> None:
    path = tmp_path / "masks.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    with pytest.raises(UserError, match=message):
        read_masks(path)


# ---- paragraphs ---------------------------------------------------------------------------------


def test_paragraphs_end_at_pauses_and_before_the_maximum() -> None:
    sentence = ["저는", "오늘", "아침", "일찍", "학교에", "갔습니다"]
    texts = sentence * 4
    by_length = only(paragraph_splitter=True, paragraph_max=12)(texts)
    assert by_length.sentences == (0, 6, 12, 18)
    assert by_length.paragraphs == (0, 12)
    # A pause of two seconds behind the third sentence.
    words = [
        Word(text, n * 300 + 2000 * (n >= 18), n * 300 + 250 + 2000 * (n >= 18))
        for n, text in enumerate(texts)
    ]
    assert only(paragraph_splitter=True)(words).paragraphs == (0, 18)
    assert only(paragraph_splitter=True, paragraph_max=2)(texts).paragraphs == (0, 6, 12, 18)
    assert only(paragraph_splitter=True)([]).paragraphs == ()


# ---- options ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"analyzer": "kkma"}, "analyzer is 'kkma': it takes auto, kiwi, rules"),
        ({"disfluency_level": "all"}, "disfluency_level is 'all'"),
        ({"paragraph_max": 0}, "at least 1"),
        ({"profanity": "바보"}, "list of strings"),
        ({"terms": ["카카오"]}, "object of strings"),
        ({"analyzer": 1}, "a string"),
    ],
)
def test_a_bad_option_is_one_sentence(data: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        FinishOptions.from_json(data)


def test_options_survive_json() -> None:
    options = FinishOptions(**EVERYTHING, profanity=("바보",), analyzer="rules")
    assert FinishOptions.from_json(json.loads(json.dumps(options.to_json()))) == options


# ---- quality ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("finishing") / "figures.json"
    command = [sys.executable, "bench/finishing.py", "--no-speed", "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize("part", ["cases", "unseen"])
def test_quality_does_not_fall(figures: dict, part: str) -> None:
    found = figures[part]
    for analyzer, recall in (("rules", 0.85), ("kiwi", 0.85)):
        if f"{analyzer}, times" in found["sentences"]:
            sentences = found["sentences"][f"{analyzer}, times"]
            assert sentences["inside"]["precision"] >= 0.95
            assert sentences["inside"]["recall"] >= recall
            assert sentences["questions"]["precision"] >= 0.9
    assert found["fillers"]["sure, times"]["precision"] >= 0.95
    assert found["spacing"]["rules"]["right_lines_changed"] == 0
    assert found["masks"]["recall"] >= 0.9
    if kiwi.is_installed():
        assert found["spacing"]["kiwi"]["repairs"]["precision"] >= 0.95
