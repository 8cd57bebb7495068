"""Hangul arithmetic against Python's own Unicode tables."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ko_asr.runtime import hangul

ALL_SYLLABLES = "".join(chr(c) for c in range(hangul.SYLLABLE_FIRST, hangul.SYLLABLE_LAST + 1))
MIXED = st.text(
    st.one_of(
        st.sampled_from(ALL_SYLLABLES[:2000]),
        st.sampled_from(hangul.JAMO + hangul.COMPAT_JAMO),
        st.sampled_from("aé ㅋ7%\n"),
    )
)


def test_all_11172_syllables_equal_unicode_nfd_and_round_trip():
    assert len(ALL_SYLLABLES) == hangul.SYLLABLE_COUNT == 11172
    assert hangul.decompose(ALL_SYLLABLES) == unicodedata.normalize("NFD", ALL_SYLLABLES)
    assert hangul.compose(hangul.decompose(ALL_SYLLABLES)) == ALL_SYLLABLES
    assert all("".join(hangul.split_syllable(c)) == hangul.decompose(c) for c in ALL_SYLLABLES)


@given(MIXED)
def test_compose_is_nfc_for_hangul(text):
    # é is precomposed already, so NFC changes only the Hangul here
    assert hangul.compose(text) == unicodedata.normalize("NFC", text)
    assert hangul.compose(hangul.compose(text)) == hangul.compose(text)


@given(st.text())
def test_decompose_then_compose_is_nfc_of_the_hangul_and_leaves_the_rest(text):
    composed = hangul.compose(hangul.decompose(text))
    assert unicodedata.normalize("NFC", composed) == unicodedata.normalize("NFC", text)


def test_compatibility_tables_name_the_same_letters_as_unicode():
    # NFKD of a compatibility jamo is the conjoining onset or nucleus, so the tables can be checked by name
    for conjoining, compat in zip(
        hangul.ONSETS + hangul.NUCLEI + hangul.CODAS, hangul.to_compat(hangul.JAMO), strict=True
    ):
        assert unicodedata.name(conjoining).split()[-1] == unicodedata.name(compat).split()[-1]


def test_letter_names():
    assert hangul.LETTER_NAMES["ㅎ"] == "히읗" and hangul.LETTER_NAMES["ㅆ"] == "쌍시옷"
    assert hangul.LETTER_NAMES["ㅏ"] == "아" and hangul.LETTER_NAMES["ㅢ"] == "의"


def test_what_is_no_syllable_is_refused():
    for text in ("ㄱ", "ab", "", "A"):
        with pytest.raises(ValueError, match="not a precomposed"):
            hangul.coda(text)
    with pytest.raises(ValueError, match="unknown rule"):
        hangul.stand_alone_jamo("ㅋ", "loud")  # type: ignore[arg-type]
