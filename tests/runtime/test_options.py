"""Stream options as clients send them: whatever the bytes are, the answer is options or one sentence."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.runtime import hangul
from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.keywords import KeywordBooster, booster_of, parse_keywords
from ko_asr.runtime.options import FileOptions, StreamOptions

JAMO = Vocabulary(("<unk>", "▁", *hangul.JAMO), rule="compose_compat")
SYLLABLES = Vocabulary(("<unk>", "▁철수", "철수", "▁시", "장"))


def silence(number: str) -> bytes:
    return b'{"endpointing": {"silence_after_speech_ms": %s}}' % number.encode()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"\xff{}", "not UTF-8"),
        (b"", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b"null", "an object with the keys endpointing, keywords, written, not null"),
        (b"[" * 60_000, "nested too deeply"),
        (b'{"keywords": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
        (b" " * 2_000_000, "too long"),
        (silence("NaN"), "NaN is no number of JSON"),
        (silence("-Infinity"), "-Infinity is no number of JSON"),
        (silence("1e400"), "1e400 is too large"),
        (silence("1e300"), "at most a day"),
        (silence("9" * 4000), "at most a day"),
        (silence("9" * 9000), "not JSON"),
        (silence("true"), "holds times in ms"),
        (b'{"keywords": ["\\ud800"]}', r"holds \ud800, a surrogate"),
        (b'{"\\udfff": 1}', r"holds \udfff, a surrogate"),
        (b'{"keywords": "\\u0041"}', "a list of words"),
        (json.dumps({"keywords": [f"단어{k}" for k in range(2000)]}).encode(), "2000 keywords are too many"),
        (b'{"keywords": ["\\u0000:1"]}', "control character"),
        (
            json.dumps({"keywords": [k * 100 for k in "가나다라마바사아자차카"]}).encode(),
            "1100 characters together",
        ),
        (json.dumps({"keywords": ["\u0301\u0323" * 9000]}, ensure_ascii=False).encode(), "more than 100"),
        (b'{"keywords": ["a:NaN"]}', "is not between -5 and 5"),
    ],
)
def test_bad_options_are_one_sentence(given: bytes, said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_keywords(StreamOptions().updated(given).keywords)
    message = str(refused.value)
    assert said in message and len(message) < 500 and "\n" not in message
    message.encode()  # Triton sends it


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(st.sampled_from('{}[]":,endpointig0NaI\\u')).map(str.encode))
def test_any_bytes_are_options_or_a_sentence(given: bytes) -> None:
    try:
        options = StreamOptions().updated(given)
    except UserError as error:
        str(error).encode()
    else:
        assert StreamOptions().updated(options.to_json()) == options


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("철수:3"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["endpointing", "keywords", "max_utterance_ms"]), inner, max_size=3)
    ),
)


@settings(max_examples=200, deadline=None)
@given(JSON | st.fixed_dictionaries({"keywords": st.lists(st.text(max_size=120), max_size=8)}))
def test_any_value_is_a_decoder_or_a_sentence(given: object) -> None:
    try:
        options = StreamOptions().updated(json.dumps(given))
        booster_of(tuple(parse_keywords(options.keywords)), JAMO)
    except UserError as error:
        assert len(str(error)) < 500


def test_options_come_back_from_their_json() -> None:
    options = StreamOptions(EndpointRules(300.0, None, 4000.0), ("철수:2", "서울 시청"))
    assert StreamOptions().updated(options.to_json().encode()) == options
    with pytest.raises(UserError, match="surrogate"):
        StreamOptions(keywords=("\udcff",)).to_json()


@pytest.mark.parametrize("time_ms", [float("nan"), float("inf"), 0.0, -1.0, 1e9])
def test_end_point_times_are_times(time_ms: float) -> None:
    with pytest.raises(ValueError, match="positive and at most a day"):
        EndpointRules(silence_after_speech_ms=time_ms)


@pytest.mark.parametrize(
    ("vocabulary", "keyword", "unknown"),
    [
        (JAMO, "KBS 뉴스", "K B S of keyword 'KBS 뉴스'"),
        (JAMO, "뉴스😀:2", "😀 of keyword '뉴스😀'"),
        (SYLLABLES, "시민", "민 of keyword '시민'"),
    ],
)
def test_a_keyword_that_no_tokens_spell_is_named(vocabulary: Vocabulary, keyword: str, unknown: str) -> None:
    with pytest.raises(UserError) as refused:
        KeywordBooster(parse_keywords([keyword]), vocabulary)
    assert f"no tokens for {unknown}" in str(refused.value)


@pytest.mark.parametrize(("vocabulary", "keyword"), [(JAMO, "뷁ㅋㅋ 값"), (SYLLABLES, "철수 시장")])
def test_a_keyword_that_tokens_spell_is_taken(vocabulary: Vocabulary, keyword: str) -> None:
    KeywordBooster(parse_keywords([keyword]), vocabulary)


def test_a_file_has_keywords_and_no_end_points() -> None:
    options = FileOptions(("철수:2", "서울 시청"), FinishOptions(punctuation=True))
    assert FileOptions.read(options.to_json()) == options
    assert FileOptions.read("{}") == FileOptions.read(b'{"keywords": []}') == FileOptions()
    for wrong in (b'{"endpointing": null}', b"[]", b'{"keyword": []}'):
        with pytest.raises(UserError, match="of a file is an object with the keys keywords, written, not"):
            FileOptions.read(wrong)


@pytest.mark.parametrize("written", [FinishOptions(), FinishOptions(itn=False, terms={"케이": "K"})])
def test_the_written_form_is_asked_for_by_true_or_by_its_options(written: FinishOptions) -> None:
    options = StreamOptions(written=written)
    assert StreamOptions().updated(options.to_json()) == options
    assert StreamOptions().updated('{"written": true}').written == FinishOptions()
    for off in ("null", "false"):
        assert options.updated(f'{{"written": {off}}}').written is None
    assert "written" not in StreamOptions().to_json()  # which an older server would refuse


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("1", "options.written is true or an object of options, not 1"),
        ("0", "options.written is true or an object of options, not 0"),
        ('{"numbers": true}', "options.written has no option 'numbers': it has itn, "),
        ('{"itn": "yes"}', "options.written.itn is true or false, not 'yes'"),
        ('{"style": {"time": 3}}', "options.written.style is an object of strings"),
        ('{"style": {"time": "iso"}}', "style time is 'iso': it takes words, colon"),
        ('{"style": {"hour": "iso"}}', "style has no option 'hour'"),
    ],
)
@pytest.mark.parametrize("read", [StreamOptions().updated, FileOptions.read])
def test_a_written_form_that_cannot_be_is_one_sentence(
    read: Callable[[str], StreamOptions | FileOptions], given: str, said: str
) -> None:
    with pytest.raises(UserError) as refused:
        Finisher(read(f'{{"written": {given}}}').written)
    assert said in str(refused.value) and "\n" not in str(refused.value)
