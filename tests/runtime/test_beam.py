"""Beam search against sums over every alignment, what its results promise, keywords, and the demo."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from commands import run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ko_asr.errors import UserError
from ko_asr.runtime import hangul
from ko_asr.runtime.beam import BeamDecoder
from ko_asr.runtime.contract import Contract
from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.file_decoder import FileDecoder
from ko_asr.runtime.greedy import GreedyDecoder
from ko_asr.runtime.keywords import Keyword, KeywordBooster, letters, parse_keywords
from ko_asr.runtime.prefix_search import BeamOptions
from ko_asr.text import language_model, tokenizer

ROOT = Path(__file__).resolve().parents[2]
SMALL = Vocabulary(("<unk>", "▁가", "나"))
BLANK = 3
WIDE = BeamOptions(
    beam_size=500, tokens_a_frame=4, token_threshold=1e9, beam_threshold=1e9, alpha=0.7, beta=0.3
)
JAMO = Vocabulary(
    ("<unk>", "▁", *hangul.decompose("가나"), hangul.CODAS[0], "각", "나", "▁가나"), rule="compose"
)


class Bigram:
    """A language model with a score for every pair of tokens; the state is the last token."""

    def __init__(self, table: np.ndarray) -> None:
        self.table = table

    def start(self) -> int:
        return len(self.table) - 1

    def score(self, state: int, token: int) -> tuple[float, int]:
        return float(self.table[state, token]), token

    def end(self, state: int) -> float:
        return float(self.table[state, -1])


def frames(rng: np.random.Generator, count: int, size: int, sharpness: float = 2.0) -> np.ndarray:
    """Random log-probabilities [count, size]."""
    logits = sharpness * rng.standard_normal((count, size))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def ranked(log_probs: np.ndarray, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    ids = np.argsort(-log_probs, 1, kind="stable")[:, :width]
    return ids.astype(np.int32), np.take_along_axis(log_probs, ids, 1).astype(np.float32)


def exhaustive(log_probs: np.ndarray, model: Bigram, options: BeamOptions) -> tuple[int, ...]:
    """The best token sequence by its definition: every alignment of every sequence summed."""
    scores: dict[tuple[int, ...], float] = {}
    for alignment in itertools.product(range(BLANK + 1), repeat=len(log_probs)):
        tokens = tuple(token for token, _ in itertools.groupby(alignment) if token != BLANK)
        path = math.exp(sum(log_probs[t, token] for t, token in enumerate(alignment)))
        scores[tokens] = scores.get(tokens, 0.0) + path

    def fused(tokens: tuple[int, ...]) -> float:
        state, total = model.start(), math.log(scores[tokens]) + options.beta * len(tokens)
        for token in tokens:
            score, state = model.score(state, token)
            total += options.alpha * score
        return total + options.alpha * model.end(state)

    return max(scores, key=fused)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_a_wide_beam_finds_the_best_sequence_of_all(seed, count):
    rng = np.random.default_rng(seed)
    log_probs, model = frames(rng, count, BLANK + 1), Bigram(rng.standard_normal((5, 5)))
    decoder = BeamDecoder(DecoderSettings(SMALL, BLANK, 40.0), language_model=model, options=WIDE)
    decoder.accept(*ranked(log_probs))
    assert decoder.finish()[-1].text == SMALL.text(exhaustive(log_probs, model, WIDE))


def speech_and_silence(seed: int) -> np.ndarray:
    """Frames of uncertain speech with pauses, over JAMO's tokens."""
    rng = np.random.default_rng(seed)
    log_probs = frames(rng, 150, len(JAMO.pieces) + 1, 3.0)
    for start in (30, 90):
        log_probs[start : start + 25] = np.log(1e-6)
        log_probs[start : start + 25, -1] = -1e-5
    return log_probs


def decode(log_probs: np.ndarray, cuts: list[int], rules: EndpointRules | None, **more) -> list:
    decoder = BeamDecoder(DecoderSettings(JAMO, len(JAMO.pieces), 40.0, rules), **more)
    ids, scores = ranked(log_probs)
    edges = sorted({0, len(ids), *(cut for cut in cuts if cut < len(ids))})
    results = [r for a, b in itertools.pairwise(edges) for r in decoder.accept(ids[a:b], scores[a:b])]
    return results + decoder.finish()


@settings(max_examples=10, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(st.integers(1, 149), max_size=20),
    st.sampled_from([600.0, 2000.0, 12000.0]),
)
@example(511, [], 2000.0)
@example(166, [75], 2000.0)
def test_finals_depend_on_the_frames_alone_and_stable_text_stays(seed, cuts, longest):
    log_probs = speech_and_silence(seed)
    rules = EndpointRules(max_utterance_ms=longest)
    results = decode(log_probs, cuts, rules, keywords=[Keyword("가나")])
    finals = [result for result in results if result.is_final]
    assert finals == [r for r in decode(log_probs, [], rules, keywords=[Keyword("가나")]) if r.is_final]
    assert [final.utterance for final in finals] == list(range(len(finals)))
    for result in results:
        assert [word.text for word in result.words] == result.text.split()
        final = next(final for final in finals if final.utterance == result.utterance)
        assert final.text.startswith(result.text[: result.stable])
        times = [time for word in result.words for time in (word.start_ms, word.end_ms)]
        assert times == sorted(times)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_file_is_decoded_as_a_stream_without_end_points(seed):
    contract = Contract(
        **dict.fromkeys(("export_id", "model", "model_sha256", "onnx_sha256"), ""),
        **{"vocabulary": JAMO.to_json(), "blank_id": len(JAMO.pieces), "mels": 80, "sample_rate": 16_000},
        **{"hop": 160, "subsampling": 4, "min_samples": 400, "max_samples": 160_000},
        **{"bucket_frames": [1000], "max_batch_size": 8, "top_k": 8},
    )
    decode_file, log_probs = FileDecoder(contract), speech_and_silence(seed)
    for keywords in ([Keyword("가나")], [Keyword("가나", -2.0), Keyword("각 나")]):
        (whole,) = [r for r in decode(log_probs, [], None, keywords=keywords) if r.is_final]
        heard = decode_file(*ranked(log_probs), keywords)
        assert heard.text() == whole.text and heard.words() == whole.words
        assert 0 < heard.confidence() <= 1
    greedy = GreedyDecoder(DecoderSettings(JAMO, len(JAMO.pieces), 40.0))
    greedy.accept(*ranked(log_probs))
    (plain,) = greedy.finish()
    heard = decode_file(*ranked(log_probs))
    assert (heard.text(), heard.words()) == (plain.text, plain.words)
    silence = decode_file(*(array[:0] for array in ranked(log_probs)), [Keyword("가나")])
    assert (silence.text(), silence.words(), silence.confidence()) == ("", (), 0.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_certain_frames_give_the_greedy_result(seed):
    rng = np.random.default_rng(seed)
    size = len(JAMO.pieces) + 1
    log_probs = np.full((80, size), np.log(1e-6))
    log_probs[np.arange(80), np.repeat(rng.integers(0, size, 20), 4)] = -1e-5
    rules = EndpointRules(silence_after_speech_ms=300.0)
    greedy = GreedyDecoder(DecoderSettings(JAMO, size - 1, 40.0, rules))
    expected = [*greedy.accept(*ranked(log_probs)), *greedy.finish()]
    found = decode(log_probs, [], rules)
    assert [r.to_json() for r in found if r.is_final] == [r.to_json() for r in expected if r.is_final]


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(0, 20))
def test_what_is_finished_is_told_once(seed, where):
    rng = np.random.default_rng(seed)
    size = len(JAMO.pieces) + 1
    log_probs = np.full((80, size), np.log(1e-6))
    log_probs[np.arange(80), np.repeat(rng.integers(0, size, 20), 4)] = -1e-5
    ids, scores = ranked(log_probs)
    told = []
    settings = DecoderSettings(JAMO, size - 1, 40.0)
    for decoder in (GreedyDecoder(settings), BeamDecoder(settings)):
        results = [*decoder.accept(ids[: 4 * where], scores[: 4 * where]), *decoder.finish()]
        results += [*decoder.accept(ids[4 * where :], scores[4 * where :]), *decoder.finish()]
        told.append([r.to_json() for r in results if r.is_final])
    assert told[0] == told[1]


def test_no_frames_and_frames_without_numbers_are_silence():
    log_probs = speech_and_silence(0)[:30]
    ids, scores = ranked(log_probs)
    nothing = np.full((3, 8), np.nan, np.float32)
    decoder = BeamDecoder(DecoderSettings(JAMO, len(JAMO.pieces), 40.0))
    decoder.accept(ids[:0], scores[:0])
    decoder.accept(ids, scores)
    decoder.accept(ids[:3], nothing)
    assert decoder.finish()[-1].text == decode(log_probs, [], None)[-1].text
    assert [r.text for r in BeamDecoder(DecoderSettings(JAMO, len(JAMO.pieces), 40.0)).finish()] == [""]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, len(JAMO.pieces) - 1), max_size=12))
def test_a_keyword_earns_its_bonus_wherever_its_letters_are_whatever_the_tokens(tokens):
    keywords = [Keyword("가나", 2.0), Keyword("나", -1.5), Keyword("각", 3.0)]
    booster = KeywordBooster(keywords, JAMO)
    state, total = booster.START, 0.0
    for token in tokens:
        state, gained = booster.step(state, token)
        total += gained
    spelled = "".join(
        "\0" if token == 0 else letters(JAMO.pieces[token].replace("▁", " ")) for token in tokens
    )
    expected = 0.0
    for keyword in keywords:
        word = letters(keyword.text)
        for at in range(len(spelled)):
            grows = word[-1] in hangul.NUCLEI and spelled[at + len(word) : at + len(word) + 1] in tuple(
                hangul.CODAS
            )
            if spelled.startswith(word, at) and not grows:
                expected += keyword.score * len(keyword.text)
    assert total + booster.end(state) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("said", ["철수:9", "철수:많이", ":3", "", "가" * 101])
def test_bad_keywords_are_one_sentence(said):
    with pytest.raises(UserError):
        parse_keywords([said])
    with pytest.raises(UserError, match="at most 100"):
        parse_keywords([f"단어{number}" for number in range(101)])


@pytest.mark.parametrize("kind", ["jamo", "unigram", "syllable"])
def test_boosting_turns_a_close_call_whatever_the_tokenizer(kind, tmp_path):
    texts = ["철수가 갔다", "철순이 갔다", "절수가 갔다", "민수가 갔다"] * 10
    folder = ROOT / "tokenizers/jamo" if kind == "jamo" else tmp_path
    if kind != "jamo":
        tokenizer.train(kind, texts, folder, 20 if kind == "unigram" else None)
    processor = tokenizer.load(folder)
    rule = "compose_compat" if kind == "jamo" else "identity"
    vocabulary = Vocabulary(tuple(map(processor.id_to_piece, range(processor.get_piece_size()))), rule=rule)
    log_probs = np.concatenate(
        [close_call(processor, heard, meant) for heard, meant in [("절수가", "철수가")]]
    )
    for keywords, expected in (([], "절수가"), ([Keyword("철수")], "철수가"), ([Keyword("철순")], "절수가")):
        decoder = BeamDecoder(DecoderSettings(vocabulary, len(vocabulary.pieces), 80.0), keywords=keywords)
        decoder.accept(*ranked(log_probs))
        assert decoder.finish()[-1].text == expected


def close_call(processor, heard: str, meant: str) -> np.ndarray:
    """Frames in which ``meant`` is 1.5 nats less likely than ``heard`` wherever they differ."""
    size, rows = processor.get_piece_size() + 1, []
    for a, b in zip(processor.encode(heard), processor.encode(meant), strict=True):
        for frame in range(2):
            row = np.full(size, 1e-5)
            row[b], row[-1] = 0.18, 1e-4
            row[a] = 0.8
            rows.append(row if not frame else np.eye(size)[-1] + 1e-5)
    rows = np.array(rows)
    return np.log(rows / rows.sum(1, keepdims=True))


def test_language_model_and_keywords_on_noisy_demo_speech(demo, tmp_path):
    from ko_asr.data.manifest import read_manifest
    from ko_asr.evaluation import beam_batch
    from ko_asr.evaluation.metrics import score
    from ko_asr.models import transcribe as transcription

    pytest.importorskip("kenlm", reason="kenlm is not installed: it needs a C++ compiler")
    out = tmp_path / "lm"
    done = run(
        "recipes/train_lm.py", "--model", demo.model, "--manifest", demo.manifests["train"],
        "--held-out", demo.manifests["eval_other"], "--max-overlap", 1, "--order", 5, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    contract = json.loads((demo.repository / "asr/1/contract.json").read_text(encoding="utf-8"))
    vocabulary = Vocabulary.from_json(contract["vocabulary"])
    scorer = language_model.LanguageModel(out, vocabulary.pieces)
    entries = list(read_manifest(demo.manifests["eval_other"]))
    model = transcription.load_transcriber(demo.model, "cpu")
    batches = beam_batch.frame_log_probs(model, entries, 1, 60.0)
    clips = [ranked(batch[0, : int(frames[0])].float().numpy()) for _, batch, frames in batches]
    order = [group[0] for group, _, _ in batches]
    references = [entries[k]["text"] for k in order]
    names = [
        Keyword(name)
        for name in ("깻잎", "떡볶이", "짬뽕", "콩국", "부채", "까치", "참새", "녹차", "꿀물", "팥죽")
    ]

    def cer(**options) -> tuple[float, int]:
        texts = []
        for ids, log_probs in clips:
            decoder = BeamDecoder(DecoderSettings(vocabulary, len(vocabulary.pieces), 40.0), **options)
            decoder.accept(ids, log_probs)
            texts.append(decoder.finish()[-1].text)
        found = sum(
            min(t.count(n.text), r.count(n.text))
            for t, r in zip(texts, references, strict=True)
            for n in names
        )
        return score(references, texts).total("cer").rate, found

    plain, boosted = cer(), cer(keywords=names)
    fused = cer(keywords=names, language_model=scorer, options=BeamOptions(alpha=0.5, beta=0.5))
    assert fused[0] < 0.7 * plain[0], "the demo's sentences are few: a language model must help much"
    assert boosted[1] >= plain[1] and boosted[0] <= plain[0] + 0.002
    said = sum(r.count(n.text) for r in references for n in names)
    assert said > 10 and fused[1] >= 0.9 * said
