"""Language models by their front door, and the in-memory estimator against its definition and lmplz."""

import json
import random
import subprocess
from pathlib import Path

import numpy as np
import pytest
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.text import kneser_ney, language_model, tokenizer

kenlm = pytest.importorskip("kenlm", reason="kenlm is not installed: it needs a C++ compiler")
ROOT = Path(__file__).resolve().parents[2]
JAMO = ROOT / "tokenizers/jamo"
WORDS = 12  # of the random texts
SENTENCES = [
    "철수가 시장으로 다시 갔다",
    "영희는 어제 국수를 먹었다",
    "삼촌이 책을 샀어요",
    "비가 와서 집에 있었다",
]


def train_lm(*arguments: object) -> subprocess.CompletedProcess:
    return run("recipes/train_lm.py", *arguments)


def manifest(path: Path, texts: list[str]) -> Path:
    entry = {"audio_filepath": "x.flac", "duration": 1.0}
    lines = [json.dumps(entry | {"text": text}, ensure_ascii=False) + "\n" for text in texts]
    path.write_text("".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    text = folder / "more.txt"
    text.write_text("\ufeff철수는 (20개)를 샀다!\n\n" + "민수가 갔다\n" * 3, encoding="utf-8")
    dev = manifest(folder / "dev.jsonl", ["철수가 국수를 샀어요"])
    train = manifest(folder / "train.jsonl", SENTENCES * 5)
    done = train_lm(
        "--tokenizer", JAMO, "--manifest", train, "--text", text, "--order", 4, "--dev", dev, "--in-memory",
        "--out", folder / "lm",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    return folder / "lm"


def test_written_text_is_learnt_as_it_is_said(tmp_path):
    """--spoken gives the very model of the text that says it; styles that hold what was said refuse it."""
    (tmp_path / "written.txt").write_text("오후 3시 30분에 15,000원, ＫＢＳ\n사과 2개\n", encoding="utf-8")
    (tmp_path / "said.txt").write_text(
        "오후 세 시 삼십 분에 만 오천 원 케이비에스\n사과 두 개\n", encoding="utf-8"
    )
    models = []
    for name, more in (("written", ["--spoken"]), ("said", [])):
        out = tmp_path / name
        done = train_lm(
            "--tokenizer", JAMO, "--text", tmp_path / f"{name}.txt", "--in-memory", "--out", out, *more
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        models.append((out / "lm.arpa").read_bytes())
        assert json.loads((out / "lm.json").read_text("utf-8"))["spoken"] == bool(more)
    assert models[0] == models[1]
    text = tmp_path / "said.txt"
    done = train_lm("--tokenizer", JAMO, "--text", text, "--style", "aihub", "--spoken", "--out", tmp_path)
    assert done.returncode == 2 and "--spoken is for --text of --style plain" in done.stderr


def estimated(sentences: list[list[int]], order: int, path: Path) -> "kenlm.Model":
    tokens = np.array([token for words in sentences for token in (WORDS, *words, WORDS + 1)])
    orders, unknown = kneser_ney.estimate(tokens, WORDS, order)
    with path.open("w", encoding="utf-8") as stream:
        names = [language_model.symbol(word) for word in range(WORDS)]
        kneser_ney.write_arpa(stream, orders, unknown, names, WORDS)
    return kenlm.Model(str(path))


def markov_text(count: int) -> list[list[int]]:
    rng = random.Random(0)
    text = []
    for _ in range(count):
        words = [rng.randrange(WORDS)]
        while rng.random() < 0.9:
            words.append((words[-1] * 5 + int(rng.expovariate(0.5))) % WORDS)
        text.append(words)
    return text


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, WORDS - 1), min_size=1, max_size=6), min_size=1, max_size=20),
    st.integers(2, 4),
)
def test_probabilities_after_any_history_sum_to_one(tmp_path_factory, sentences, order):
    model = estimated(sentences, order, tmp_path_factory.mktemp("arpa") / "lm.arpa")
    used = {language_model.symbol(word) for words in sentences for word in words}
    for history in ([], sentences[0][:1], sentences[-1], [WORDS - 1, 0]):
        state = kenlm.State()
        model.BeginSentenceWrite(state)
        for word in history:
            after = kenlm.State()
            model.BaseScore(state, language_model.symbol(word), after)
            state = after
        total = sum(10 ** model.BaseScore(state, word, kenlm.State()) for word in (*used, "</s>", "<unk>"))
        assert total == pytest.approx(1.0, abs=1e-4)


def test_hand_worked_bigrams(tmp_path):
    # a b | a b | a c: unigrams allow no discounts of their own and take .5 1 1.5; for bigrams, seen once 2,
    # twice 2, thrice 1, four times 0, Y = 2 / (2 + 4), D1 = 1 - 2 Y, D2 = 2 - 3 Y / 2
    model = estimated([[0, 1], [0, 1], [0, 2]], 2, tmp_path / "lm.arpa")
    a, b = language_model.symbol(0), language_model.symbol(1)
    # continuation counts: a 1, b 1, c 1, </s> 2; total 5; left over (3 x .5 + 1) / 5, shared by 5 with <unk>
    uniform = (3 * 0.5 + 1.0) / 5 / 5
    p_b = (1 - 0.5) / 5 + uniform
    d1, d2 = 1 - 2 / 3, 2 - 3 / 3 / 2
    p_b_after_a = (2 - d2) / 3 + (d1 + d2) / 3 * p_b
    state, after = kenlm.State(), kenlm.State()
    model.BeginSentenceWrite(state)
    model.BaseScore(state, a, after)
    assert 10 ** model.BaseScore(after, b, kenlm.State()) == pytest.approx(p_b_after_a, rel=1e-5)


def test_equals_lmplz(tmp_path):
    lmplz = language_model.tool("lmplz", ROOT / ".build" / "kenlm")
    if lmplz is None:
        pytest.skip("lmplz is not built: run make lmplz (a minute of compiling) to compare with it")
    sentences = markov_text(4000)
    ours = estimated(sentences, 4, tmp_path / "ours.arpa")
    language_model.estimate_on_disk(lmplz, sentences, 4, tmp_path / "lmplz.arpa", "100M")
    theirs = kenlm.Model(str(tmp_path / "lmplz.arpa"))
    texts = [" ".join(map(language_model.symbol, words)) for words in markov_text(300)]
    differences = [
        abs(a[0] - b[0])
        for text in texts
        for a, b in zip(ours.full_scores(text), theirs.full_scores(text), strict=True)
    ]
    assert max(differences) < 5e-3, "lmplz differs by its last n-gram only"


@pytest.mark.slow
def test_the_folder_is_what_nemo_and_kenlm_read_alike(trained):
    import torch
    from nemo.collections.asr.parts.submodules.ngram_lm import NGramGPULanguageModel

    processor = tokenizer.load(JAMO)
    pieces = [processor.id_to_piece(token) for token in range(processor.get_piece_size())]
    model = language_model.LanguageModel(trained, pieces)
    nemo = NGramGPULanguageModel.from_file(trained / language_model.ARPA, vocab_size=len(pieces))
    sentence = processor.encode("철수가 국수를 먹었다")
    state, scores = model.start(), []
    for token in sentence:
        score, state = model.score(state, token)
        scores.append(score)
    theirs = nemo(torch.tensor([sentence]), bos=True, eos=False)
    assert sum(scores) == pytest.approx(float(theirs.sum()), rel=1e-4)
    assert model.perplexity([processor.encode(SENTENCES[0])]) < model.perplexity(
        [processor.encode("포도 켜")]
    )
    assert model.description["sentences"] == 24 and model.description["order"] == 4


def test_it_runs_twice_with_equal_bytes_and_drops_old_weights(trained, tmp_path):
    train = manifest(tmp_path / "t.jsonl", SENTENCES)
    arguments = (
        "--tokenizer",
        JAMO,
        "--manifest",
        train,
        "--order",
        3,
        "--in-memory",
        "--out",
        tmp_path / "lm",
    )
    assert train_lm(*arguments).returncode == 0
    first = (tmp_path / "lm" / language_model.ARPA).read_bytes()
    (tmp_path / "lm" / language_model.WEIGHTS).write_text('{"alpha": 1, "beta": 1}', encoding="utf-8")
    assert train_lm(*arguments).returncode == 0
    assert (tmp_path / "lm" / language_model.ARPA).read_bytes() == first
    assert not (tmp_path / "lm" / language_model.WEIGHTS).exists(), (
        "weights belong to the model they were tuned for"
    )


def test_bad_input_is_one_sentence_and_leaves_no_model(tmp_path):
    empty = manifest(tmp_path / "empty.jsonl", [])
    train = manifest(tmp_path / "train.jsonl", SENTENCES)
    latin = tmp_path / "cp949.txt"
    latin.write_bytes("한국어".encode("cp949"))
    out = tmp_path / "lm"
    cases = {
        "hold no sentence": ("--manifest", empty),
        "is not UTF-8": ("--text", latin),
        "no file": ("--manifest", tmp_path / "none.jsonl"),
        "stand in the training text": ("--manifest", train, "--held-out", train),
        "must be 2 to 6": ("--manifest", train, "--order", 9),
    }
    for said, arguments in cases.items():
        done = train_lm("--tokenizer", JAMO, *arguments, "--out", out)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr and not (out / language_model.DESCRIPTION).exists()


def test_another_vocabularys_model_is_refused(trained):
    from ko_asr.errors import UserError

    with pytest.raises(UserError, match="another vocabulary"):
        language_model.LanguageModel(trained, ["<unk>", "▁가"])
    with pytest.raises(UserError, match="no whole language model"):
        language_model.LanguageModel(trained.parent)
