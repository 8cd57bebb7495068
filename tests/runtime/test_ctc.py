"""Greedy CTC in numpy: against a definition, and against SentencePiece itself."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.models.vocabulary import find_vocabulary
from ko_asr.runtime import hangul
from ko_asr.runtime.contract import BUCKETS, bucket_lengths
from ko_asr.runtime.ctc import TEXT_RULES, Vocabulary, collapse, confidence
from ko_asr.text import tokenizer

BLANK = 7
TEXTS = [
    "닭이 값을 깎아 달라고 했다",
    "앉아서 읽는 책은 재미있다",
    "오늘 ktx 표가 3장 있어요",
    "부엌에서 꽃을 꺾었어요",
] * 20


@given(st.lists(st.integers(0, BLANK), max_size=60))
def test_collapse_is_merge_repeats_then_drop_blanks(frames: list[int]) -> None:
    wanted = [token for token, _ in itertools.groupby(frames) if token != BLANK]
    tokens = collapse(np.array(frames, np.int32), BLANK)
    assert [token.id for token in tokens] == wanted
    assert all(set(frames[token.start : token.end]) == {token.id} for token in tokens)


def test_confidence_is_the_mean_of_each_tokens_best_frame() -> None:
    ids = np.array([7, 3, 3, 7, 5])
    log_probs = np.log(np.array([0.9, 0.5, 0.8, 0.9, 0.6], np.float32))
    tokens = collapse(ids, BLANK, log_probs)
    assert confidence(tokens, log_probs) == pytest.approx((0.8 + 0.6) / 2)


def test_confidence_of_silence_is_that_of_blank() -> None:
    log_probs = np.log(np.array([0.9, 0.7], np.float32))
    assert confidence([], log_probs) == pytest.approx(0.8)
    assert confidence([], np.zeros(0, np.float32)) == 0.0


@pytest.mark.parametrize("kind", tokenizer.TYPES)
def test_text_is_what_sentencepiece_decodes(kind: str, tmp_path) -> None:
    size = None if kind in ("syllable", "jamo") else 80
    tokenizer.train(kind, TEXTS, tmp_path, size)
    processor = tokenizer.load(tmp_path)
    vocabulary = find_vocabulary(processor)
    generator = random.Random(1)
    for _ in range(500):
        ids = [generator.randrange(processor.get_piece_size()) for _ in range(generator.randint(0, 30))]
        assert vocabulary.text(ids) == processor.decode(ids)
    for text in set(TEXTS):
        assert vocabulary.text(processor.encode(text)) == text


BYTES = ("<0xEA>", "<0xB0>", "<0x80>")
PIECES = ("<unk>", "<s>", "▁", "▁가", "안녕", "▁▁", *BYTES, *hangul.decompose("각뷁 ㅋa"), ".")


@given(st.lists(st.integers(0, len(PIECES) - 1), max_size=30), st.sampled_from(TEXT_RULES), st.booleans())
def test_text_is_that_of_its_characters(token_ids: list[int], rule: str, at_start: bool) -> None:
    vocabulary = Vocabulary(PIECES, 0, frozenset({1}), rule)
    expected = "".join(character.text for character in vocabulary.characters(token_ids, at_start))
    assert vocabulary.text(token_ids, at_start) == expected


def test_byte_fallback_pieces_decode_as_utf8() -> None:
    pieces = ("<unk>", "▁", *(f"<0x{byte:02X}>" for byte in range(256)))
    ids = [1, *(2 + byte for byte in "꽥".encode()), 1, 2 + 0xFF]
    assert Vocabulary(pieces).text(ids) == "꽥 �"


@pytest.mark.parametrize("target", BUCKETS)
def test_buckets_waste_little_and_end_at_the_limit(target: str) -> None:
    step, share = BUCKETS[target]
    lengths = bucket_lengths(6000, step, share)
    assert lengths[-1] == 6000 and lengths == sorted(set(lengths))
    assert all(b - a <= max(step, a / share) for a, b in itertools.pairwise(lengths))
    assert all(length % step == 0 for length in lengths[:-1])
