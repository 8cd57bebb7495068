"""Subtitles: every word once and in order, in lines and times that can be read."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ko_asr
from ko_asr.finishing.finisher import Finisher
from ko_asr.recognition.cues import RULES, Cue, CueRules, cues, width
from ko_asr.recognition.subtitles import srt, vtt
from ko_asr.recognition.transcript import Transcript
from ko_asr.runtime.results import Result, Word

PAUSE = 700  # ms between utterances
NEWS = (
    "이천이십사년 삼월 오일 오후 세 시 삼십 분에 서울 강남구에서 만 오천 원짜리 물건을 산 사람이 "
    "스물세 명이나 됐고 그중 네 명은 환불을 받았습니다"
)


def utterance(text: str, at: int = 0, syllable_ms: int = 150, gap_ms: int = 60) -> Result:
    """Words that are spoken at an even speed from ``at`` ms on; / is half a second of silence."""
    words: list[Word] = []
    for word in text.split():
        if word == "/":
            at += 500
            continue
        words.append(Word(word, at, at + syllable_ms * len(word), 1.0))
        at = words[-1].end_ms + gap_ms
    return Result(text, True, words[0].start_ms, words[-1].end_ms, tuple(words))


def transcript(*texts: str, syllable_ms: int = 150) -> Transcript:
    found: list[Result] = []
    for text in texts:
        found.append(utterance(text, found[-1].end_ms + PAUSE if found else 0, syllable_ms))
    return Transcript("x.wav", found[-1].end_ms / 1000 + 2, tuple(found))


def written(text: str) -> Transcript:
    (result,) = transcript(text).utterances
    return Transcript("x.wav", 60.0, (replace(result, written=Finisher()(result.words)),))


def lines(found: Sequence[Cue]) -> list[list[str]]:
    return [cue.lines for cue in found]


words = st.builds(
    "".join,
    st.lists(
        st.sampled_from([*"가나다라마이삼십만원월", "12", "a", ",", ".", "고"]), min_size=1, max_size=24
    ),
)
timed = st.tuples(words, st.integers(0, 2000), st.integers(0, 9000) | st.integers(100, 600))
spoken = st.lists(st.lists(timed, min_size=1, max_size=20), max_size=4)


def spoken_at(utterances: list[list[tuple[str, int, int]]], at: int = 0) -> Transcript:
    """Words with the silence before each and its length, both in ms."""
    results = []
    for timed_words in utterances:
        made = []
        for text, silence, length in timed_words:
            made.append(Word(text, at + silence, at + silence + length, 1.0))
            at = made[-1].end_ms
        results.append(Result("", True, made[0].start_ms, at, tuple(made)))
    return Transcript("x.wav", at / 1000, tuple(results))


@given(spoken, st.floats(1, 40), st.integers(1, 2))
def test_every_word_is_shown_once_in_lines_that_fit(utterances, line: float, most: int) -> None:
    whole = spoken_at(utterances)
    found = cues(whole, rules=CueRules(line, most))
    assert [word for cue in found for line in cue.lines for word in line.split()] == [
        word.text for word in whole.words
    ]
    for cue in found:
        assert 1 <= len(cue.lines) <= most
        assert all(width(one) <= line or " " not in one for one in cue.lines)


@given(spoken)
def test_times_go_on_and_have_the_lengths_of_the_rules(utterances) -> None:
    whole = spoken_at(utterances)
    found = cues(whole)
    starts = {word.start_ms for word in whole.words}
    for cue, following in pairwise([*found, None]):
        assert cue.start_ms in starts and cue.start_ms < cue.end_ms <= cue.start_ms + RULES.longest_ms
        if following and following.start_ms - cue.start_ms > RULES.gap_ms:
            assert cue.end_ms <= following.start_ms - RULES.gap_ms
        if following is None or following.start_ms - cue.start_ms >= RULES.shortest_ms + RULES.gap_ms:
            shortest = round(1000 * whole.duration) - cue.start_ms if following is None else RULES.shortest_ms
            assert cue.end_ms - cue.start_ms >= min(RULES.shortest_ms, shortest)


@given(st.lists(st.lists(timed, min_size=1, max_size=8), min_size=1, max_size=4), st.randoms())
def test_speakers_are_told_apart_though_they_interrupt_each_other(utterances, random) -> None:
    whole = spoken_at(utterances)
    other = spoken_at(utterances, at=random.randrange(3000))
    both = Transcript("x.wav", 99.0, whole.utterances + other.utterances)
    labels = ["[0]"] * len(utterances) + ["[1]"] * len(utterances)
    found = cues(both, labels)
    assert [cue.start_ms for cue in found] == sorted(cue.start_ms for cue in found)
    for label, one in (("[0]", whole), ("[1]", other)):
        text = " ".join(" ".join(cue.lines) for cue in found if cue.lines[0].startswith(label))
        assert text.replace(f"{label} ", "").split() == [word.text for word in one.words]
    assert all(cue.start_ms < cue.end_ms for cue in found)


def test_lines_break_where_a_reader_would() -> None:
    assert lines(cues(transcript(NEWS))) == [
        ["이천이십사년 삼월 오일 오후", "세 시 삼십 분에 서울 강남구에서"],
        ["만 오천 원짜리 물건을 산", "사람이 스물세 명이나 됐고"],
        ["그중 네 명은 환불을 받았습니다"],
    ]
    assert lines(cues(written(NEWS))) == [
        ["2024년 3월 5일 오후 3시 30분에", "서울 강남구에서 15,000원짜리"],
        ["물건을 산 사람이 23명이나 됐고", "그중 네 명은 환불을 받았습니다"],
    ]


@pytest.mark.parametrize("before", range(14))
@pytest.mark.parametrize(
    "text", ["7만 원을", "4조 1,200억 원을", "4 대 1로", "두 사람이", "스물세 명이", "만 오천 원을"]
)
def test_a_number_stays_with_what_it_counts(before: int, text: str) -> None:
    """Wherever in the text it comes."""
    found = cues(transcript(" ".join(["가나다"] * before + [text] + ["가나다"] * 9)))
    assert any(text in line for cue in found for line in cue.lines)


def test_sentences_begin_lines_and_cues() -> None:
    found = cues(
        transcript(
            "밥을 먹었어요. 그런데 배가 고파요. 그래서 한 그릇을 더 시켰더니 금방 나왔습니다. 맛있네요."
        )
    )
    assert lines(found) == [
        ["밥을 먹었어요.", "그런데 배가 고파요."],
        ["그래서 한 그릇을 더", "시켰더니 금방 나왔습니다."],
        ["맛있네요."],
    ]


def test_short_answers_share_a_cue_and_long_pauses_part_them() -> None:
    short = transcript("네", "알겠습니다")
    assert lines(cues(short)) == [["네", "알겠습니다"]]
    late = Result("", True, 9000, 9500, (Word("알겠습니다", 9000, 9500, 1.0),))
    apart = cues(Transcript("x.wav", 12.0, (short.utterances[0], late)))
    assert apart == [Cue(0, 833, ["네"]), Cue(9000, 9833, ["알겠습니다"])]


def test_a_cue_stays_for_its_reader_and_gaps_are_closed() -> None:
    fast = cues(
        transcript("가나다라마바사아자차카타파하가나", "네네네네네네네네네네네네네네", syllable_ms=50)
    )
    first, last = fast
    assert first.end_ms == last.start_ms - RULES.gap_ms  # 500 ms behind the speech, and 117 of a gap
    assert last.end_ms - last.start_ms == round(14 / 12 * 1000)


def test_words_of_nothing_have_a_cue() -> None:
    words = (Word("", 0, 0, 1.0), Word("", 0, 0, 1.0), Word("가", 0, 300, 1.0))
    found = cues(Transcript("x.wav", 1.0, (Result("가", True, 0, 300, words),)))
    assert "가" in found[-1].lines[-1]


def test_files() -> None:
    text = "어제 시장에서 <토끼> & 여우를 봤어요 그래서 아주 기분이 좋았습니다 정말로요"
    texts = text.split(" ")
    slow = tuple(Word(text, 1000 * k, 1000 * k + 400, 1.0) for k, text in enumerate(texts))
    late = Word("네", 3_661_001, 3_661_100, 1.0)
    results = [Result("", True, w[0].start_ms, w[-1].end_ms, w) for w in (slow, (late,))]
    whole = Transcript("x.wav", 3_663.0, tuple(results))
    assert srt(whole).startswith("1\n00:00:00,000 --> ")
    assert srt(whole).endswith("01:01:01,001 --> 01:01:01,834\n네\n\n")
    assert vtt(whole).startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert "&lt;토끼&gt; &amp;\n" in vtt(whole)
    assert srt(Transcript("x.wav", 1.0, ())) == "" and vtt(Transcript("x.wav", 1.0, ())) == "WEBVTT\n\n"


SUBTITLES_OF_THE_PAGE = Path(ko_asr.__file__).parent / "gateway/api/page/static/subtitles.js"
IN_NODE = """
import { readFileSync } from "node:fs";
const { srt } = await import(process.argv[1]);
const asked = JSON.parse(readFileSync(0, "utf-8"));
process.stdout.write(JSON.stringify(asked.map(({ utterances, duration }) => srt(utterances, duration))));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="no node, which runs the page's code")
def test_the_page_of_the_gateway_divides_alike(tmp_path: Path) -> None:
    """Random speech and some of the above, in one process of Node."""
    random = Random(0)
    texts = [
        *NEWS.split(),
        "네.",
        "가나다라마바사아자차카타파하가나다라",
        "7만",
        "1,200억",
        "대",
        "했고,",
        "KBS",
        "일",
        "점",
    ]
    whole = [transcript(NEWS), transcript("네", "알겠습니다", NEWS)]
    for _ in range(200):
        utterances = [
            [
                (
                    random.choice(texts),
                    random.choice([0, 40, 60, 350, 2500]),
                    random.choice([0, 90, 400, 900, 8000]),
                )
                for _ in range(random.randint(1, 15))
            ]
            for _ in range(random.randint(0, 4))
        ]
        whole.append(spoken_at(utterances))
    asked = [
        {
            "duration": one.duration,
            "utterances": [
                {
                    "words": [
                        {"word": w.text, "start": w.start_ms / 1000, "end": w.end_ms / 1000}
                        for w in result.words
                    ]
                }
                for result in one.utterances
            ],
        }
        for one in whole
    ]
    module = tmp_path / "subtitles.mjs"
    shutil.copy(SUBTITLES_OF_THE_PAGE, module)
    command = ["node", "--input-type=module", "-e", IN_NODE, str(module)]
    done = subprocess.run(
        command, input=json.dumps(asked), capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [srt(one) for one in whole]
