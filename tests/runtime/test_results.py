"""Words, times, confidence, partials and end-points: rules checked by Hypothesis against definitions."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.runtime import hangul
from ko_asr.runtime.ctc import Vocabulary, collapse
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.endpoint import MAX_UTTERANCE, SILENCE_AFTER_SPEECH, SILENCE_WITHOUT_SPEECH, EndpointRules
from ko_asr.runtime.greedy import GreedyDecoder
from ko_asr.runtime.results import Result, words

JAMO = Vocabulary(("<unk>", "▁", *hangul.decompose("각나"), "a", "ㅋ"), rule="compose")
COMPAT = Vocabulary(JAMO.pieces, rule="compose_compat")
# 닭 in two pieces, a syllable and then a coda of its own, bytes of 꽥, a control piece
PIECES = ("<unk>", "</s>", "▁", "▁다", "ᆰ", "이", "▁온다", "가", *(f"<0x{b:02X}>" for b in "꽥".encode()))
SUBWORDS = Vocabulary(PIECES, silent=frozenset({1}), rule="compose")
PLAIN = Vocabulary(("<unk>", "▁", "▁안녕", "하세요", "네"))
VOCABULARIES = st.sampled_from([JAMO, COMPAT, SUBWORDS, PLAIN])
FRAME_MS = 40.0


@st.composite
def streams(draw) -> tuple[Vocabulary, np.ndarray, np.ndarray, list[int]]:
    """A vocabulary, best ids [T] with many blanks, log-probabilities [T], where calls divide them."""
    vocabulary = draw(VOCABULARIES)
    blank = len(vocabulary.pieces)
    runs = draw(
        st.lists(
            st.tuples(st.integers(0, blank) | st.just(blank), st.integers(1, 4) | st.integers(10, 90)),
            max_size=40,
        )
    )
    ids = np.repeat([id for id, _ in runs], [n for _, n in runs]).astype(np.int32)
    scores = -np.random.default_rng(len(ids)).random(len(ids)).astype(np.float32)
    cuts = draw(st.lists(st.integers(0, len(ids)), max_size=8))
    return vocabulary, ids, scores, sorted({0, *cuts, len(ids)})


def decode(decoder: GreedyDecoder, ids: np.ndarray, scores: np.ndarray, cuts: list[int]) -> list[Result]:
    results = []
    for start, end in pairwise(cuts):
        results += decoder.accept(ids[start:end, None], scores[start:end, None])
    return results + decoder.finish()


@given(streams())
def test_without_end_points_the_final_is_the_text_and_words_of_the_whole(stream) -> None:
    vocabulary, ids, scores, cuts = stream
    blank = len(vocabulary.pieces)
    *partials, final = decode(GreedyDecoder(DecoderSettings(vocabulary, blank, FRAME_MS)), ids, scores, cuts)
    tokens = collapse(ids, blank, scores)
    assert final.is_final and not any(partial.is_final for partial in partials)
    assert final.text == vocabulary.text(token.id for token in tokens)
    assert final.words == tuple(words(tokens, vocabulary, FRAME_MS))
    assert [word.text for word in final.words] == final.text.split()
    assert all("".join(part.text for part in word.syllables) == word.text for word in final.words)


@given(streams())
def test_times_follow_the_frames_and_never_run_backwards(stream) -> None:
    vocabulary, ids, scores, cuts = stream
    blank = len(vocabulary.pieces)
    decoder = GreedyDecoder(DecoderSettings(vocabulary, blank, FRAME_MS, EndpointRules(), offset_ms=-60))
    finals = [result for result in decode(decoder, ids, scores, cuts) if result.is_final]
    spans = [(part.start_ms, part.end_ms) for f in finals for word in f.words for part in word.syllables]
    assert all(start <= end <= len(ids) * FRAME_MS for start, end in spans)
    assert all(a <= c and b <= d for (a, b), (c, d) in pairwise(spans))
    for word in (word for final in finals for word in final.words):
        assert (word.start_ms, word.end_ms) == (word.syllables[0].start_ms, word.syllables[-1].end_ms)
        assert 0 < word.confidence <= min(part.confidence for part in word.syllables)


@given(streams())
def test_what_is_stable_stays_and_finals_do_not_depend_on_the_calls(stream) -> None:
    vocabulary, ids, scores, cuts = stream
    blank = len(vocabulary.pieces)
    rules = EndpointRules(silence_after_speech_ms=500, max_utterance_ms=3000)
    decoder = GreedyDecoder(DecoderSettings(vocabulary, blank, FRAME_MS, rules))
    results = decode(decoder, ids, scores, cuts)
    stable: dict[int, str] = {}
    for result in results:
        assert result.text.startswith(stable.get(result.utterance, ""))
        stable[result.utterance] = result.text[: result.stable]
    finals = [result for result in results if result.is_final]
    assert [final.utterance for final in finals] == list(range(len(finals)))
    at_once = decode(
        GreedyDecoder(DecoderSettings(vocabulary, blank, FRAME_MS, rules)), ids, scores, [0, len(ids)]
    )
    assert finals == [result for result in at_once if result.is_final]
    shown = [(a, b) for a, b in pairwise(results) if not a.is_final]
    assert decoder.revised == sum(not b.text.startswith(a.text) for a, b in shown)
    assert decoder.partials == len(results) - len(finals)


def frames(*runs: tuple[str, int]) -> tuple[np.ndarray, np.ndarray]:
    ids = [
        JAMO.pieces.index(piece) if piece else len(JAMO.pieces) for piece, count in runs for _ in range(count)
    ]
    return np.array(ids, np.int32), np.zeros(len(ids), np.float32)


def speech(text: str) -> list[tuple[str, int]]:
    return [("▁" if char == " " else char, 1) for char in hangul.decompose(text)]


def test_a_coda_revises_the_last_syllable_only() -> None:
    decoder = GreedyDecoder(DecoderSettings(JAMO, len(JAMO.pieces), FRAME_MS))
    shown = [decoder.accept(*frames((piece, 1)))[0] for piece, _ in speech("나각")]
    assert [(r.text, r.stable) for r in shown][-2:] == [("나가", 1), ("나각", 2)]
    assert decoder.partials == 5 and decoder.revised == 3  # ᄂ -> 나, ᄀ -> 가, 가 -> 각


def test_the_three_rules() -> None:
    rules = EndpointRules(silence_after_speech_ms=400, silence_without_speech_ms=2000, max_utterance_ms=2000)

    def finals(*runs: tuple[str, int]) -> list[Result]:
        decoder = GreedyDecoder(DecoderSettings(JAMO, len(JAMO.pieces), FRAME_MS, rules))
        return [r for r in decoder.accept(*frames(*runs)) + decoder.finish() if r.is_final]

    quiet, spoken = finals(("", 200)), finals(*speech("나가"), ("", 10), *speech(" 각"))
    assert [(r.text, r.endpoint, r.end_ms) for r in quiet] == [("", SILENCE_WITHOUT_SPEECH, 2000)]
    assert [(r.text, r.endpoint) for r in spoken] == [("나가", SILENCE_AFTER_SPEECH), ("각", None)]
    assert (spoken[0].start_ms, spoken[0].end_ms, spoken[1].start_ms) == (0, 160, 15 * FRAME_MS)
    running = finals(*speech(" 나가" * 20))
    assert [r.endpoint for r in running] == [MAX_UTTERANCE, MAX_UTTERANCE, None]
    assert [len(r.words) for r in running] == [9, 9, 2]  # 5 frames a word: 200 ms
    unbroken = finals(*speech("나" * 60))
    assert [len(r.text) for r in unbroken] == [25, 25, 10] and unbroken[0].end_ms == 2000
    with pytest.raises(ValueError, match="max_utterance_ms=0"):
        EndpointRules(max_utterance_ms=0)


def test_results_are_json() -> None:
    decoder = GreedyDecoder(DecoderSettings(JAMO, len(JAMO.pieces), FRAME_MS))
    decoder.accept(*frames(*speech("나 각")))
    data = decoder.finish()[0].to_json(syllables=True)
    assert data["text"] == "나 각" and data["is_final"] and data["endpoint"] is None
    assert data["words"][1] == {
        "text": "각",
        "start_ms": 120,
        "end_ms": 240,
        "confidence": 1.0,
        "syllables": [{"text": "각", "start_ms": 120, "end_ms": 240, "confidence": 1.0}],
    }
