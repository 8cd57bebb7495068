"""The written form of live speech: what is committed stays, at any packet size; finals are the whole's."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.finishing.data import load
from ko_asr.finishing.finisher import finish
from ko_asr.finishing.live import LiveFinisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.words import Written
from ko_asr.runtime.results import Word

SENTENCES = sorted({case[0] for rule in load("itn")["rules"] for case in rule.get("cases", ())})
WORDS = sorted({word for sentence in SENTENCES for word in sentence.split()})
OPTIONS = st.sampled_from(
    [
        FinishOptions(),
        FinishOptions(style={"native": "all", "time": "colon", "large": "digits"}),
        FinishOptions(itn=False),
        FinishOptions(
            terms={"오만 원": "五萬 원", "삼십 분 전에": "30分前", "이십 층": "스무 층", "층으로": "層으로"}
        ),
        FinishOptions(terms={"사과 다섯": "Apple", "다섯 개하고 달걀": "계란"}, profanity_filter=True),
        FinishOptions(profanity_filter=True, profanity=("사과 다섯", "달걀: 달걀 서른")),
        FinishOptions(punctuation=True, disfluency_filter=True, spacing=True, analyzer="rules"),
    ]
)


def as_words(texts: Sequence[str]) -> tuple[Word, ...]:
    return tuple(Word(text, 100 * k, 100 * k + 80, 0.9) for k, text in enumerate(texts))


def heard(text: str, cut: int) -> tuple[tuple[Word, ...], int]:
    """The words of what was heard up to a character, and how many of them are complete."""
    words = as_words(text[:cut].split())
    return words, len(words) if text[cut - 1 : cut] == " " else max(0, len(words) - 1)


def check(written: Written, words: int) -> None:
    """Every spoken word is in a source or dropped; the words joined are the text."""
    sources = [number for word in written.words for number in word.sources]
    assert sorted({*sources, *written.dropped}) == list(range(words))
    assert not {*sources} & {*written.dropped}
    assert " ".join(word.text for word in written.words) == written.text


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=3)
    | st.lists(st.sampled_from(WORDS), min_size=1, max_size=12),
    OPTIONS,
    st.data(),
)
def test_what_is_committed_stays(parts: list[str], options: FinishOptions, data: st.DataObject) -> None:
    text = " ".join(parts)
    final = LiveFinisher(options).final(as_words(text.split())).text
    live, committed = LiveFinisher(options), ""
    cuts = data.draw(st.lists(st.integers(1, len(text)), min_size=1, max_size=12).map(sorted))
    for cut in cuts:
        words, settled = heard(text, cut)
        partial = live.partial(words, settled)
        check(partial, len(words))
        assert partial.text.startswith(committed)
        committed = partial.text[: partial.stable]
        assert final.startswith(committed)
    assert live.final(as_words(text.split())).text == final


@pytest.mark.parametrize("step", [1, 2, 5])
def test_every_sentence_in_steps(step: int) -> None:
    for text in SENTENCES:
        live, committed = LiveFinisher(FinishOptions()), ""
        for cut in range(1, len(text) + 1, step):
            partial = live.partial(*heard(text, cut))
            assert partial.text.startswith(committed), text[:cut]
            committed = partial.text[: partial.stable]
        final = live.final(as_words(text.split()))
        assert final == finish(as_words(text.split()))
        assert final.text.startswith(committed), text
