"""Near duplicates: the index finds exactly what comparing every pair finds."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from ko_asr.data.duplicates import EDITS_A_CHARACTER, SHORTEST, NearDuplicates

TEXTS = st.lists(st.text(alphabet="가나다", min_size=5, max_size=40), min_size=1, max_size=6)


def edited(text: str, edits: list[tuple[int, str]]) -> str:
    for place, replacement in edits:
        place %= len(text) + 1
        text = text[:place] + replacement + text[place + (len(replacement) == 1) :]
    return text


EDITS = st.lists(st.tuples(st.integers(0, 50), st.sampled_from(["", "라", "라마"])), max_size=5)


@settings(max_examples=400, deadline=None)
@given(indexed=TEXTS, others=TEXTS, edits=EDITS)
def test_as_every_pair_would_give(indexed, others, edits):
    streamed = [*others, *(edited(text, edits) for text in indexed)]
    index = NearDuplicates(indexed)
    found = {
        (p.indexed, p.streamed, p.edits) for i, text in enumerate(streamed) for p in index.matches(i, text)
    }
    wanted = set()
    for a, known in enumerate(indexed):
        for b, text in enumerate(streamed):
            edits_between = Levenshtein.distance(known, text)
            if len(known) >= SHORTEST and edits_between <= max(1, int(len(known) * EDITS_A_CHARACTER)):
                wanted.add((a, b, edits_between))
    assert found == wanted


def test_time_is_bounded_when_everything_is_alike():
    phrase = "거실에 있는 에어컨을 지금 바로 켜 줘 "
    index = NearDuplicates(f"{phrase}{number}" for number in range(3000))
    start = time.perf_counter()
    for number in range(300):
        index.matches(number, f"{phrase}{number}")
    assert time.perf_counter() - start < 2.0


def test_a_discarded_text_is_not_found_again():
    index = NearDuplicates(["오늘은 날씨가 정말 좋아서 산책을 했다", "오늘은 날씨가 정말 좋아서 산책을 간다"])
    asked = "오늘은 날씨가 정말 좋아서 산책을 갔다"
    assert {pair.indexed for pair in index.matches(0, asked)} == {0, 1}
    index.discard(0)
    assert {pair.indexed for pair in index.matches(0, asked)} == {1}


def test_spaces_and_punctuation_do_not_count():
    index = NearDuplicates(["오늘은 날씨가 정말 좋아서 산책을 했다"])
    assert [p.edits for p in index.matches(0, "오늘은 날씨가 정말좋아서, 산책을 했다.")] == [0]
    assert [p.edits for p in index.matches(0, "오늘은 날씨가 정말 좋아서 산책을 갔다")] == [1]
    assert not index.matches(0, "오늘은 날씨가 정말 나빠서 집에만 있었다")
