"""Korean tokenizers, each a plain SentencePiece model that stock NeMo and plain ``sentencepiece`` load.

======== ============================================ =========== =================================
type     a token is                                   subsampling needs
======== ============================================ =========== =================================
unigram  a sub-word of syllables (Kudo 2018)          8x          training text
bpe      a sub-word of syllables (Sennrich 2016)      8x          training text
syllable one syllable block                           8x          training text
jamo     one onset, nucleus or coda                   4x          nothing: the alphabet is closed
jamo-bpe a sub-word of jamo, below and above syllable 8x          training text
======== ============================================ =========== =================================

Jamo lives inside the model: a normalisation table decomposes each of the 11,172 syllables into conjoining
jamo (Unicode chapter 3.12, what NFD gives) before segmentation, and a denormalisation table composes them
again after decoding. So text goes in and comes out as NFC syllables, and no custom tokenizer class is
needed, which ``restore_from`` would refuse. Conjoining jamo keep onset and coda apart: 엄마 has no repeated
token, and CTC needs no blank inside it.

The rule for stand-alone (compatibility) jamo such as ㅋㅋ and ㅠㅠ in the two jamo types: a consonant that
can start a syllable becomes the onset jamo, another consonant (ㄳ) the coda jamo, a vowel the nucleus jamo;
lone conjoining jamo decode to compatibility jamo again, so 안녕ㅋㅋ and ㅠㅠ survive. What composes is
composed: ㅋㅏ comes back as 카. Latin letters and digits are tokens of their own; any symbol outside the
alphabet is ``<unk>``, which decodes as " ⁇ ", so normalise first and count unknowns.
"""

import contextlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece

from ko_asr.errors import UserError
from ko_asr.files import atomic_write
from ko_asr.runtime import hangul

TYPES = ("unigram", "bpe", "syllable", "jamo", "jamo-bpe")
_MODEL_TYPE = {"unigram": "unigram", "bpe": "bpe", "syllable": "char", "jamo": "char", "jamo-bpe": "bpe"}
# Twice the training recipe's limit on syllables: longer lines are mistakes, and SentencePiece drops lines
# above this many bytes silently unless told.
_MAX_SENTENCE_BYTES = 65_536
_SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4)]
_BASIC_SYMBOLS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ%.,?!"


def _hex(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


@cache
def _compatibility_pairs() -> list[tuple[str, str]]:
    """Pair (compatibility jamo, conjoining jamo) by the rule in the module's docstring, one to one."""
    pairs: list[tuple[str, str]] = []
    for table in (hangul.ONSETS, hangul.NUCLEI, hangul.CODAS):
        for conjoining in table:
            compatibility = hangul.to_compat(conjoining)
            if all(compatibility != known for known, _ in pairs):
                pairs.append((compatibility, conjoining))
    return pairs


def jamo_tables() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the tables (normalisation, denormalisation) of (source, target) strings for the jamo types.

    SentencePiece applies the longest source that matches, so a full syllable wins over its parts.
    """
    decomposed = [(syllable, hangul.decompose(syllable)) for syllable in _SYLLABLES]
    normalisation = decomposed + _compatibility_pairs()
    denormalisation = [(jamo, syllable) for syllable, jamo in decomposed]
    denormalisation += [
        (conjoining, hangul.to_compat(conjoining))
        for conjoining in (*hangul.ONSETS, *hangul.NUCLEI, *hangul.CODAS)
    ]
    return normalisation, denormalisation


def _write_table(path: Path, rows: list[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.writelines(f"{_hex(source)}\t{_hex(target)}\n" for source, target in rows)


def _training_options(kind: str, vocab_size: int | None, folder: Path) -> dict[str, Any]:
    """Return the SentencePiece options of one type; write the jamo tables into ``folder``."""
    options: dict[str, Any] = {
        "model_type": _MODEL_TYPE[kind],
        "character_coverage": 1.0,
        "bos_id": -1,
        "eos_id": -1,
        "pad_id": -1,
        "num_threads": 2,  # part of what makes a unigram model: sums are taken thread by thread
        "max_sentence_length": _MAX_SENTENCE_BYTES,
        "shuffle_input_sentence": False,
        "minloglevel": 2,
    }
    if kind in ("syllable", "jamo"):
        options |= {"vocab_size": vocab_size or 20_000, "hard_vocab_limit": False}
    else:
        options |= {"vocab_size": vocab_size or 1024, "hard_vocab_limit": kind != "unigram"}
    if kind.startswith("jamo"):
        normalisation, denormalisation = jamo_tables()
        _write_table(folder / "normalise.tsv", normalisation)
        _write_table(folder / "denormalise.tsv", denormalisation)
        options["normalization_rule_tsv"] = "normalise.tsv"
        options["denormalization_rule_tsv"] = "denormalise.tsv"
    else:
        # The default (nmt_nfkc) would rewrite full-width and compatibility forms after our own text rules.
        options["normalization_rule_name"] = "identity"
    return options


def _sentences(kind: str, texts: Iterable[str] | None) -> Iterator[str]:
    """Yield training sentences; for jamo the whole alphabet first, so that no syllable is ever unknown."""
    if kind == "jamo":
        yield " ".join(_SYLLABLES)
        if texts is None:
            yield " ".join(_BASIC_SYMBOLS)
    yield from texts or ()


def train(kind: str, texts: Iterable[str] | None, out: Path, vocab_size: int | None = None) -> Path:
    """Train a tokenizer of type ``kind`` on ``texts`` (NFC) and write it to the folder ``out``.

    ``out`` gets ``tokenizer.model``, ``tokenizer.vocab`` and ``vocab.txt`` (one piece a line), which is what
    NeMo's ``tokenizer.dir`` wants, and ``tokenizer.json``, which says how it was made. ``texts`` may be
    None for ``jamo`` alone. Deterministic: the same texts give the same bytes. Raises UserError when the
    text is empty or cannot give the vocabulary asked for.
    """
    if kind not in TYPES:
        raise UserError(f"unknown tokenizer type {kind!r}: choose one of {', '.join(TYPES)}")
    if texts is None and kind != "jamo":
        raise UserError(f"a {kind} tokenizer is learnt from text: give --manifest or --text")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "text.txt").open("w", encoding="utf-8") as stream:
            stream.writelines(f"{sentence}\n" for sentence in _sentences(kind, texts))
        options = _training_options(kind, vocab_size, folder)
        try:
            # The model stores the paths of its training: relative ones, so that equal text gives equal bytes.
            with contextlib.chdir(folder):
                sentencepiece.SentencePieceTrainer.train(
                    input="text.txt", model_prefix="tokenizer", **options
                )
        except (RuntimeError, OSError) as error:
            raise UserError(_explain(str(error), kind, vocab_size)) from error
        return _publish(folder / "tokenizer.model", kind, out)


def _explain(message: str, kind: str, vocab_size: int | None) -> str:
    """Turn SentencePiece's message for too small or empty a text into one sentence."""
    if limit := re.search(r"<= (\d+)|value <= (\d+)", message):
        most = limit.group(1) or limit.group(2)
        return (
            f"the text cannot give {vocab_size} {kind} pieces: use --vocab-size {most} or less, or more text"
        )
    if smallest := re.search(r"smaller than required_chars\.? ?(\d+) vs (\d+)", message):
        return f"--vocab-size {vocab_size} is below the {smallest.group(2)} characters of the text: use more"
    if "empty" in message or "sentences_" in message:
        return f"no text to learn a {kind} tokenizer from: the manifest has no non-empty text"
    return f"SentencePiece could not train the {kind} tokenizer: {message.strip().splitlines()[-1]}"


def _publish(model: Path, kind: str, out: Path) -> Path:
    """Copy a trained model into ``out``, ``tokenizer.model`` last: a folder that has it is complete."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    size = processor.get_piece_size()
    pieces = [processor.id_to_piece(i) for i in range(size)]
    with atomic_write(out / "vocab.txt") as stream:
        stream.writelines(f"{piece}\n" for piece in pieces)
    with atomic_write(out / "tokenizer.vocab") as stream:
        stream.writelines(f"{piece}\t{processor.get_score(i):g}\n" for i, piece in enumerate(pieces))
    description = {"type": kind, "vocab_size": size, "sentencepiece": sentencepiece.__version__}
    with atomic_write(out / "tokenizer.json") as stream:
        json.dump(description, stream, indent=2)
        stream.write("\n")
    with atomic_write(out / "tokenizer.model", "wb") as stream:
        stream.write(model.read_bytes())
    return out / "tokenizer.model"


def load(folder: str | Path) -> sentencepiece.SentencePieceProcessor:
    """Load the SentencePiece processor of the tokenizer in ``folder`` (UserError when there is none)."""
    model = Path(folder) / "tokenizer.model"
    if not model.is_file():
        raise UserError(f"no tokenizer in {folder}: build one with python tokenizers/build.py --out {folder}")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(model))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{model} is not a SentencePiece model (truncated?): build it again") from error
