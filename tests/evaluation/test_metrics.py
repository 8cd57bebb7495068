"""Error rates against jiwer, against plain-Python references, and against cases worked by hand."""

import math
import unicodedata

import jiwer
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.evaluation import metrics
from ko_asr.evaluation.alignment import align
from ko_asr.runtime.hangul import decompose

# Few letters, so that random texts have much in common and alignments have many ties.
SYLLABLES = "가각간갈나낙난다닥밖박값 a1"
TEXT = st.text(st.sampled_from(SYLLABLES), max_size=14).map(lambda t: " ".join(t.split()))
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8)


def rate(result, metric):
    return result.total(metric).rate


# ---------------------------------------------------------------------------------------- against jiwer


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_cer_and_wer_counts_equal_jiwer(pairs):
    pairs = [(r, h) for r, h in pairs if r] or [("가", "나")]
    refs, hyps = map(list, zip(*pairs, strict=True))
    result = metrics.score(refs, hyps, "strict")
    for metric, theirs in (
        ("cer", jiwer.process_characters(refs, hyps)),
        ("wer", jiwer.process_words(refs, hyps)),
    ):
        ours = result.total(metric)
        assert ours.as_tuple()[:3] == (theirs.substitutions, theirs.deletions, theirs.insertions)
        assert ours.reference == theirs.hits + theirs.substitutions + theirs.deletions
        assert ours.rate == pytest.approx(getattr(theirs, metric))


# ------------------------------------------------------------------- against plain reference implementations


def plain_jamo_cost(reference: str, hypothesis: str) -> int:
    """Least number of jamo errors between two texts of syllables, by the textbook recursion."""

    def size(c):
        return len(decompose(c))

    def parts(c):
        jamo = decompose(c)
        return jamo[0], jamo[1], jamo[2:]

    rows = [[0] * (len(hypothesis) + 1) for _ in range(len(reference) + 1)]
    for i in range(len(reference) + 1):
        for j in range(len(hypothesis) + 1):
            ways = []
            if i:
                ways.append(rows[i - 1][j] + size(reference[i - 1]))
            if j:
                ways.append(rows[i][j - 1] + size(hypothesis[j - 1]))
            if i and j:
                a, b = parts(reference[i - 1]), parts(hypothesis[j - 1])
                ways.append(rows[i - 1][j - 1] + sum(x != y for x, y in zip(a, b, strict=True)))
            rows[i][j] = min(ways, default=0)
    return rows[-1][-1]


@given(
    st.lists(st.tuples(*[st.text(st.sampled_from("가각간갈나낙난다닥밖박값궤"), max_size=9)] * 2), max_size=9)
)
@settings(max_examples=60, deadline=None)
def test_jamo_errors_are_the_fewest_possible(pairs):
    refs, hyps = [r for r, _ in pairs], [h for _, h in pairs]
    counts = metrics.jamo_errors(refs, hyps).counts
    for k, (reference, hypothesis) in enumerate(pairs):
        assert sum(counts[role][k, :3].sum() for role in metrics.ROLES) == plain_jamo_cost(
            reference, hypothesis
        )
        assert sum(counts[role][k, 3] for role in metrics.ROLES) == len(decompose(reference))


def plain_space_normalised(reference: str, hypothesis: str) -> str:
    """The published algorithm of sWER, one cell at a time: characters carry a mark when they start a word."""
    marked = []
    for text in (reference, hypothesis):
        marked.append([(c, k == 0) for word in text.split() for k, c in enumerate(word)])
    ref, hyp = marked
    cost = np.zeros((len(hyp) + 1, len(ref) + 1), int)
    cost[0], cost[:, 0] = np.arange(len(ref) + 1), np.arange(len(hyp) + 1)
    for h in range(1, len(hyp) + 1):
        for r in range(1, len(ref) + 1):
            same = cost[h - 1, r - 1] + (hyp[h - 1][0] != ref[r - 1][0])
            cost[h, r] = min(same, cost[h - 1, r] + 1, cost[h, r - 1] + 1)
    h, r, out = len(hyp), len(ref), []
    while h or r:
        if h and r and cost[h - 1, r - 1] + (hyp[h - 1][0] != ref[r - 1][0]) == cost[h, r]:
            h, r = h - 1, r - 1
            out.append(ref[r] if hyp[h][0] == ref[r][0] else hyp[h])
        elif h and (not r or cost[h - 1, r] < cost[h, r - 1]):
            h -= 1
            out.append(hyp[h])
        else:
            r -= 1
    return "".join((" " if starts else "") + c for c, starts in reversed(out)).strip()


@given(PAIRS)
@settings(max_examples=100, deadline=None)
def test_space_normalisation_equals_the_published_algorithm(pairs):
    refs, hyps = [r for r, _ in pairs], [h for _, h in pairs]
    assert metrics.normalise_spacing(refs, hyps) == [plain_space_normalised(r, h) for r, h in pairs]


@given(PAIRS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_an_alignment_walks_both_texts_once_and_in_order(pairs, by_jamo):
    refs, hyps = [r for r, _ in pairs], [h for _, h in pairs]
    found = align(refs, hyps, by_jamo)
    assert found.ref[found.ref >= 0].tolist() == list(range(sum(map(len, refs))))
    assert found.hyp[found.hyp >= 0].tolist() == list(range(sum(map(len, hyps))))
    assert np.all((found.ref >= 0) | (found.hyp >= 0)) and np.all(np.diff(found.pair) >= 0)


@given(PAIRS)
@settings(max_examples=40, deadline=None)
def test_scoring_together_equals_scoring_one_by_one(pairs):
    refs, hyps = [r for r, _ in pairs], [h for _, h in pairs]
    together = metrics.score(refs, hyps)
    for k in range(len(pairs)):
        alone = metrics.score(refs[k : k + 1], hyps[k : k + 1])
        assert all((together.counts[m][k] == alone.counts[m][0]).all() for m in metrics.METRICS)


def test_a_long_pair_takes_the_linear_memory_path_and_counts_the_same(monkeypatch):
    rng = np.random.default_rng(3)
    text = "".join(rng.choice(list("가각간갈나낙난다닥밖박값 "), 700))
    other = "".join(c for c in text if rng.random() > 0.1)
    expected = metrics.score([text], [other])
    monkeypatch.setattr("ko_asr.evaluation.alignment._LONG_PAIR_CELLS", 100)
    for metric in ("cer", "wer", "swer"):
        assert metrics.score([text], [other]).total(metric).errors == expected.total(metric).errors
    assert metrics.score([text], [other]).total("jamo").errors >= expected.total("jamo").errors


# -------------------------------------------------------------------------------------------- worked by hand


def test_spaces_punctuation_and_case_are_what_the_profile_says():
    reference, hypothesis = "할 수 있어. OK?", "할수있어 ok"
    strict = metrics.score([reference], [hypothesis], "strict")
    # two spaces, the full stop, O, K and the question mark: 6 of 11 characters
    assert strict.total("cer").errors == 6 and strict.total("cer").reference == 11
    plain = metrics.score([reference], [hypothesis], "plain")
    assert plain.total("cer").errors == 2 and plain.total("cer").reference == 9
    assert plain.total("cer_no_spaces").errors == 0 and plain.total("swer").errors == 0
    assert plain.total("wer").errors == 3 and plain.total("wer").reference == 4
    icefall = metrics.score([reference], [hypothesis], "icefall")
    assert icefall.headline() == "cer_no_spaces" and icefall.total("cer_no_spaces").errors == 4
    espnet = metrics.score([reference], [hypothesis], "espnet")
    assert espnet.headline() == "cer" and espnet.total("cer").errors == 4  # two spaces, O, K


def test_final_consonants_by_hand():
    # 닭이 -> 닥이: ㄺ for ㄱ. 좋다 -> 조타: ㅎ missing, ㄷ became ㅌ. 가요 -> 각요: a coda that nobody said.
    result = metrics.score(["닭이 좋다 가요"], ["닥이 조타 각요"])
    assert result.total("coda").as_tuple() == (1, 1, 1, 2) and rate(result, "coda") == 1.5
    assert result.total("onset").as_tuple() == (1, 0, 0, 6)
    assert result.total("nucleus").as_tuple() == (0, 0, 0, 6)
    assert result.total("jamo").as_tuple() == (2, 1, 1, 14)
    assert result.jamo_confusions == {
        ("coda", "ㄺ", "ㄱ"): 1,
        ("coda", "ㅎ", ""): 1,
        ("coda", "", "ㄱ"): 1,
        ("onset", "ㄷ", "ㅌ"): 1,
    }
    assert result.word_confusions == {("닭이", "닥이"): 1, ("좋다", "조타"): 1, ("가요", "각요"): 1}


def test_a_missing_syllable_is_blamed_for_its_own_jamo():
    # Plain edit distance may pair 물 with 선; the fewest jamo errors are the deletion of 물 (3 jamo).
    counts = metrics.jamo_errors(["선물을"], ["선을"]).counts
    assert [counts[role][0].tolist() for role in metrics.ROLES] == [[0, 1, 0, 3], [0, 1, 0, 3], [0, 1, 0, 3]]


def test_texts_that_are_no_hangul_have_no_jamo():
    result = metrics.score(["LG 가"], ["엘지 가"])
    assert result.total("cer").errors == 2
    assert result.total("onset").as_tuple() == (0, 0, 2, 1)  # 엘지 was heard where there was no Hangul


def test_empty_sides():
    result = metrics.score(["", "가나", ""], ["", "", "다"])
    assert result.total("cer").as_tuple() == (0, 2, 1, 2)
    assert result.total("cer", np.array([True, False, False])).rate == 0.0
    assert result.total("cer", np.array([False, False, True])).rate == math.inf
    nothing = metrics.score([], [])
    assert all(nothing.total(m).as_tuple() == (0, 0, 0, 0) for m in metrics.METRICS)


def test_nfd_and_nfc_of_one_text_are_equal():
    assert metrics.score(["값이 싸다"], [decompose("값이  싸다")]).total("cer").errors == 0


def test_misuse_is_named():
    with pytest.raises(ValueError, match="2 references but 1"):
        metrics.score(["가", "나"], ["가"])
    with pytest.raises(ValueError, match="unknown scoring profile 'bleu'; choose one of plain"):
        metrics.score(["가"], ["가"], "bleu")


# ------------------------------------------------------------------------------------------------ intervals


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    # 200 corpora of 300 utterances x 20 characters with a true error rate of 10 %: about 95 % must cover it.
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        low, high = metrics.bootstrap_interval(rng.binomial(20, 0.1, 300), np.full(300, 20), 400, seed=trial)
        covered += low <= 0.1 <= high
    assert 180 <= covered <= 199


def test_bootstrap_interval_by_speaker_is_wider_when_speakers_differ():
    speakers = np.repeat(np.arange(10), 50)
    errors = np.where(speakers < 2, 10, 1)
    reference = np.full(500, 20)
    by_utterance = metrics.bootstrap_interval(errors, reference)
    by_speaker = metrics.bootstrap_interval(errors, reference, groups=speakers)
    assert by_speaker[1] - by_speaker[0] > 3 * (by_utterance[1] - by_utterance[0])
    assert metrics.bootstrap_interval(errors, reference) == by_utterance  # seeded


def test_paired_bootstrap_finds_a_real_difference_and_no_other():
    rng = np.random.default_rng(2)
    reference = np.full(400, 20)
    hard = rng.binomial(20, 0.2, 400)
    better = np.maximum(hard - rng.binomial(1, 0.3, 400), 0)
    real = metrics.paired_bootstrap(hard, better, reference, samples=2000)
    assert real.difference > 0 and real.low > 0 and real.p_value < 0.01 and real.first_better < 0.01
    noise = metrics.paired_bootstrap(hard, rng.permutation(hard), reference, samples=2000)
    assert noise.p_value > 0.05 and noise.low < 0 < noise.high
    back = metrics.paired_bootstrap(better, hard, reference, samples=2000)
    assert back.difference == -real.difference and back.p_value == pytest.approx(real.p_value)


def test_two_strings_are_one_utterance() -> None:
    one, many = metrics.score("할 수 있어.", "할수 있어"), metrics.score(["할 수 있어."], ["할수 있어"])
    assert one.total("cer") == many.total("cer") and one.total("wer") == many.total("wer")
    assert (one.cer, one.wer) == (pytest.approx(1 / 6), pytest.approx(2 / 3))
    assert metrics.score("가나", "가나 다").counts["cer"].shape == (1, 4)
    with pytest.raises(TypeError, match="two strings or two sequences"):
        metrics.score("가나", ["가나"])


# ----------------------------------------------------------------------------------------- forms of one sign

ALIKE = [
    *("안\u200b녕", "\ufeff안녕", "안\u00ad녕", "안녕！", "안녕，", "안ㆍ녕", "안・녕", "「안녕」", "안녕〜"),
    *("안녕\u2060", "안\u200d녕", "【안녕】"),
]


@pytest.mark.parametrize("text", ALIKE)
def test_plain_does_not_count_how_a_text_is_typed(text):
    assert metrics.score("안녕", text).total("cer").errors == 0
    assert metrics.score("OK 20", "ＯＫ　２０").total("cer").errors == 0


# errors against 안녕, as each toolkit's published rules count them
PUBLISHED = {
    "안\u200b녕": dict(espnet=1, speechbrain=1, icefall=1, kospeech=1, rtzr=1, strict=1),
    "안\u00ad녕": dict(espnet=1, speechbrain=1, icefall=1, kospeech=1, rtzr=1, strict=1),
    "안녕！": dict(espnet=1, speechbrain=1, icefall=1, kospeech=1, rtzr=1, strict=1),
    "안ㆍ녕": dict(espnet=1, speechbrain=1, icefall=1, kospeech=1, rtzr=1, strict=1),
    "안녕.": dict(espnet=0, speechbrain=0, icefall=1, kospeech=1, rtzr=0, strict=1),
    "안녕+": dict(espnet=1, speechbrain=0, icefall=1, kospeech=1, rtzr=1, strict=1),
    "안녕_": dict(espnet=1, speechbrain=1, icefall=1, kospeech=0, rtzr=0, strict=1),
}


@pytest.mark.parametrize("text", PUBLISHED)
def test_other_profiles_count_as_published(text):
    counted = {name: metrics.score("안녕", text, name).total("cer").errors for name in PUBLISHED[text]}
    assert counted == PUBLISHED[text]


@given(st.text(max_size=20), st.sampled_from(sorted(set(metrics.PROFILES) - {"plain"})))
@settings(max_examples=200, deadline=None)
def test_no_other_profile_folds_forms(text, name):
    rules = metrics.PROFILES[name]
    kept = "".join(c for c in unicodedata.normalize("NFC", text) if c not in rules.punctuation)
    assert rules.apply(text) == " ".join((kept.casefold() if rules.fold_case else kept).split())
