"""Tokenizers by their front door: build.py, compare.py, and what stock NeMo and SentencePiece make of it."""

import json
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st

from ko_asr.runtime import hangul
from ko_asr.runtime.frames import encoder_frames, is_feasible, mel_frames, required_frames
from ko_asr.text.feasibility import token_statistics
from ko_asr.text.tokenizer import TYPES, jamo_tables

ROOT = Path(__file__).resolve().parents[2]
SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4)]
SENTENCES = ["닭이 값을 읽었다", "엄마가 떡볶이를 먹었어요", "SRT 표가 20% 싸다", "안녕ㅋㅋ 반가워ㅠㅠ"] * 30


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "train.jsonl"
    entry = {"duration": 2.0, "sampling_rate": 16000}
    lines = [json.dumps(entry | {"audio_filepath": f"{i}.flac", "text": t}) for i, t in enumerate(SENTENCES)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def built(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {}
    for kind in TYPES:
        out = tmp_path_factory.mktemp(kind)
        size = ["--vocab-size", "60"] if kind in ("unigram", "bpe", "jamo-bpe") else []
        done = run("tokenizers/build.py", "--type", kind, "--manifest", manifest, "--out", out, *size)
        assert done.returncode == 0, done.stderr
        folders[kind] = out
    return folders


def processor(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("kind", TYPES)
def test_text_survives_and_building_twice_gives_equal_bytes(kind, built, manifest, tmp_path) -> None:
    sp = processor(built[kind])
    for text in set(SENTENCES):
        assert sp.decode(sp.encode(text)) == text
    pieces = (built[kind] / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert pieces == [sp.id_to_piece(i) for i in range(sp.get_piece_size())]
    size = ["--vocab-size", "60"] if kind in ("unigram", "bpe", "jamo-bpe") else []
    run("tokenizers/build.py", "--type", kind, "--manifest", manifest, "--out", tmp_path, *size)
    for name in ("tokenizer.model", "vocab.txt"):
        assert (tmp_path / name).read_bytes() == (built[kind] / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
def test_stock_nemo_reads_it(kind, built) -> None:
    from nemo.collections.common.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer(str(built[kind] / "tokenizer.model"))
    for text in set(SENTENCES):
        assert tokenizer.ids_to_text(tokenizer.text_to_ids(text)) == text


def test_shipped_jamo_is_what_the_command_builds(tmp_path: Path) -> None:
    assert run("tokenizers/build.py", "--type", "jamo", "--out", tmp_path).returncode == 0
    for name in ("tokenizer.model", "vocab.txt"):
        assert (tmp_path / name).read_bytes() == (ROOT / "tokenizers/jamo" / name).read_bytes()


def test_shipped_jamo_writes_every_syllable() -> None:
    sp = processor(ROOT / "tokenizers/jamo")
    unknown = sp.unk_id()
    for syllable in SYLLABLES:
        tokens = sp.encode(syllable)
        assert unknown not in tokens and sp.decode(tokens) == syllable
        # One token a letter: the word boundary, onset, nucleus and, where there is one, coda.
        assert len(tokens) == 1 + len(unicodedata.normalize("NFD", syllable))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from(SYLLABLES), min_size=1, max_size=8), min_size=1, max_size=6))
def test_jamo_round_trips_and_never_repeats_inside_a_word(words: list[str]) -> None:
    sp = processor(ROOT / "tokenizers/jamo")
    text = " ".join(words)
    tokens = sp.encode(text)
    assert sp.decode(tokens) == text
    assert required_frames(tokens) == len(tokens)  # onset and coda differ, so no blank is ever needed


def test_stand_alone_jamo_follow_the_written_rule() -> None:
    sp = processor(ROOT / "tokenizers/jamo")
    said = {"안녕ㅋㅋ": "안녕ㅋㅋ", "ㅠㅠ 싫어": "ㅠㅠ 싫어", "ㅋㅏ": "카", "ㄳ": "ㄳ", "漢字": " ⁇ "}
    assert {text: sp.decode(sp.encode(text)) for text in said} == said
    normalisation, denormalisation = jamo_tables()
    assert len(normalisation) == len(dict(normalisation)) == 11_172 + 51
    assert len(dict(denormalisation)) == 11_172 + 67
    assert all(hangul.compose(target) == source for source, target in normalisation[:11_172])


@pytest.mark.slow
@settings(deadline=None)  # the first example imports NeMo
@given(st.integers(0, 10**6), st.sampled_from([1, 2, 4, 8]), st.booleans())
def test_encoder_frames_are_the_lengths_nemo_computes(mel: int, subsampling: int, causal: bool) -> None:
    import torch
    from nemo.collections.asr.parts.submodules.subsampling import calc_length

    stages = subsampling.bit_length() - 1
    # NeMo pads a stage by (1, 1), or causally by (kernel - 1, stride - 1) = (2, 1).
    nemo = calc_length(torch.tensor(mel, dtype=torch.float64), 3 if causal else 2, 3, 2, False, stages)
    assert encoder_frames(mel, subsampling, causal) == int(nemo)


def test_feasibility_is_the_loss_nemo_would_see() -> None:
    """CTC loss is infinite exactly where the law says that no alignment exists."""
    import torch

    loss = torch.nn.CTCLoss(blank=3, reduction="none")
    for tokens in ([0, 1, 2], [0, 0, 1], [2, 2, 2, 2], [1]):
        for samples in range(0, 16_000, 640):
            frames = encoder_frames(mel_frames(samples))
            if frames:
                log_probs = torch.full((frames, 1, 4), 0.25).log()
                value = loss(
                    log_probs, torch.tensor([tokens]), torch.tensor([frames]), torch.tensor([len(tokens)])
                )
                assert bool(value.isfinite()) == is_feasible(tokens, samples / 16_000)


def test_compare_counts_what_the_manifest_holds(built, manifest, tmp_path) -> None:
    done = run("tokenizers/compare.py", *built.values(), "--manifest", manifest, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "tokenizers.json").read_text(encoding="utf-8"))["tokenizers"]
    by_kind = dict(zip(built, report, strict=True))
    sp = processor(built["syllable"])
    tokens = sum(len(sp.encode(text)) for text in SENTENCES)
    assert by_kind["syllable"]["tokens_per_second"] == pytest.approx(tokens / (2.0 * len(SENTENCES)))
    letters = sum(len(unicodedata.normalize("NFD", text)) + 1 for text in SENTENCES)  # 1: the first boundary
    assert by_kind["jamo"]["tokens_per_second"] == pytest.approx(letters / (2.0 * len(SENTENCES)))
    assert (tmp_path / "tokenizers.png").read_bytes().startswith(b"\x89PNG")


def test_statistics_of_a_hand_worked_manifest() -> None:
    sp = processor(ROOT / "tokenizers/jamo")
    # 가 is 3 tokens with its word boundary: 0.16 s give 16 log-mel frames, 2 at 8x and 4 at 4x.
    entries = [{"text": "가", "duration": 0.16}, {"text": "漢", "duration": 1.0}]
    statistics = token_statistics(entries, sp)
    assert statistics.tokens == 5 and statistics.unknown == 1
    assert statistics.infeasible == {4: 0, 8: 1}
    assert statistics.longest_ratio == {4: 0.75, 8: 1.5}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--type", "unigram"], "learnt from text"),
        (["--type", "bpe", "--vocab-size", "9999", "--manifest", "M"], "--vocab-size"),
        (["--type", "bpe", "--vocab-size", "9", "--manifest", "M"], "characters of the text"),
        (["--type", "syllable", "--manifest", "EMPTY"], "no text"),
        (["--type", "syllable", "--manifest", "missing.jsonl"], "missing.jsonl"),
        (["--type", "syllable", "--text", "CP949"], "not UTF-8"),
        (["--type", "jamo", "--vocab-size", "3"], "at least 8"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, words, manifest, tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("", encoding="utf-8")
    (tmp_path / "cp949.txt").write_bytes("안녕하세요".encode("cp949"))
    places = {"M": manifest, "EMPTY": tmp_path / "empty.jsonl", "CP949": tmp_path / "cp949.txt"}
    done = run("tokenizers/build.py", *(places.get(a, a) for a in arguments), "--out", tmp_path / "out")
    assert done.returncode == 2 and words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
