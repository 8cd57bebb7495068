"""n-gram language models over a model's own tokens: trained with lmplz or in memory, scored with kenlm.

NeMo's convention (`ngram_lm.kenlm_utils`): token k is the character chr(k + 100), with spaces between tokens.
So the one ARPA file serves NeMo's ``beam_batch``, KenLM and flashlight. A language model is a folder:
``lm.arpa``, ``lm.binary`` where build_binary is there, and ``lm.json``, which is written last.
"""

import hashlib
import importlib
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.errors import UserError
from ko_asr.files import atomic_write

TOKEN_OFFSET = 100  # NeMo's DEFAULT_TOKEN_OFFSET
MAX_TOKENS = 0xD800 - TOKEN_OFFSET  # above lie surrogates, which UTF-8 cannot write
MAX_ORDER = 6  # KenLM's, as it is compiled by default
TOOLS = ("lmplz", "build_binary")
MOST_TOKENS_IN_MEMORY = 30_000_000  # about 10 GB at order 5
NO_SENTENCE = "the manifests and texts hold no sentence: nothing to learn from"
LN10 = math.log(10.0)
ARPA, BINARY, DESCRIPTION, WEIGHTS = "lm.arpa", "lm.binary", "lm.json", "weights.json"


def tool(name: str, built: Path) -> Path | None:
    """Find KenLM's program ``name`` in KENLM_BIN, in ``built`` (`make lmplz` fills it) or on PATH."""
    for folder in (os.environ.get("KENLM_BIN", built), built):
        if os.access(path := Path(folder) / name, os.X_OK):
            return path
    found = shutil.which(name)
    return Path(found) if found else None


def symbol(token: int) -> str:
    """Return the character that stands for a token in the ARPA file.

    >>> symbol(0), symbol(1000)
    ('d', 'ь')
    """
    return chr(token + TOKEN_OFFSET)


def vocabulary_hash(pieces: Sequence[str]) -> str:
    """Return the hex digest that ties a language model to its vocabulary."""
    return hashlib.sha256("\n".join(pieces).encode("utf-8")).hexdigest()


def token_lines(sentences: Iterable[Sequence[int]]) -> Iterator[bytes]:
    """Yield sentences of token ids in lmplz's form, one a line; empty ones are left out."""
    for sentence in sentences:
        if sentence:
            yield (" ".join(map(symbol, sentence)) + "\n").encode("utf-8")


def estimate_on_disk(
    lmplz: Path, sentences: Iterable[Sequence[int]], order: int, arpa: Path, memory: str
) -> None:
    """Estimate with ``lmplz``, which sorts on disk in ``memory`` (such as "30%"); UserError when it fails."""
    with tempfile.TemporaryDirectory(dir=arpa.parent, prefix=".lmplz-") as scratch:
        command = [str(lmplz), "-o", str(order), "--discount_fallback", "-S", memory, "-T", f"{scratch}/"]
        with tempfile.TemporaryFile() as log:
            command += ["--arpa", str(arpa)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
            assert process.stdin is not None
            try:
                process.stdin.writelines(token_lines(sentences))
                process.stdin.close()
            except BrokenPipeError:
                pass  # lmplz ended: its status says why
            except BaseException:
                process.kill()
                raise
            if process.wait():
                log.seek(0)
                reason = log.read().decode("utf-8", errors="replace").strip().splitlines()[-1:]
                raise UserError(f"lmplz failed ({' '.join(reason)[:200]}): free memory or disk and try again")


def estimate_in_memory(sentences: Iterable[Sequence[int]], order: int, size: int, arpa: Path) -> None:
    """Estimate without lmplz; UserError when the text is too large for that."""
    from ko_asr.text import kneser_ney

    chunks: list[np.ndarray] = []
    total = 0
    for sentence in sentences:
        if sentence:
            chunks.append(np.array([size, *sentence, size + 1], np.int32))
            total += len(chunks[-1])
        if total > MOST_TOKENS_IN_MEMORY:
            raise UserError(
                f"the text has more than {MOST_TOKENS_IN_MEMORY:,} tokens, too many to count in memory: "
                "run make lmplz first, which counts on disk"
            )
    if not chunks:
        raise UserError(NO_SENTENCE)
    orders, unknown = kneser_ney.estimate(np.concatenate(chunks), size, order)
    with atomic_write(arpa) as stream:
        kneser_ney.write_arpa(stream, orders, unknown, [symbol(token) for token in range(size)], size)


def build_binary(program: Path, arpa: Path) -> Path:
    """Write KenLM's binary, which loads at once, beside an ARPA file with its ``program`` build_binary."""
    target = arpa.with_suffix(".binary")
    temporary = target.with_suffix(".tmp")
    done = subprocess.run([program, "-q", "8", "-b", "8", "trie", arpa, temporary], capture_output=True)
    if done.returncode:
        # Quantising needs more distinct values than a tiny model has.
        done = subprocess.run([program, "trie", arpa, temporary], capture_output=True)
    if done.returncode:
        reason = done.stderr.decode("utf-8", errors="replace").strip().splitlines()[-1:]
        raise UserError(f"build_binary failed on {arpa}: {' '.join(reason)[:200]}")
    os.replace(temporary, target)
    return target


def require_kenlm() -> Any:
    """Import the kenlm module; UserError where it is not installed."""
    try:
        return importlib.import_module("kenlm")
    except ImportError as error:
        raise UserError(
            "the kenlm package is not installed (it needs a C++ compiler and Python's headers): "
            "pip install kenlm, or decode without a language model"
        ) from error


@dataclass(frozen=True)
class FusionWeights:
    """Weights of a language model: ``alpha`` scales its log-probability, ``beta`` is added a token."""

    alpha: float = 0.5
    beta: float = 0.5


class LanguageModel:
    """Token n-gram for decoding: states are kenlm's, scores are natural logarithms.

    Raises UserError for a folder without a whole language model, a vocabulary other than ``pieces`` (None:
    unchecked), or a missing kenlm package.
    """

    def __init__(self, folder: str | Path, pieces: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        self.description = read_description(self.folder, pieces)
        kenlm = require_kenlm()
        path = self.folder / BINARY
        self._model = kenlm.Model(str(path if path.is_file() else self.folder / ARPA))
        self._new_state: Callable[[], Any] = kenlm.State
        self._symbols = [symbol(token) for token in range(self.description["vocab_size"])]

    def start(self) -> Any:
        """Return the state at the beginning of a sentence."""
        state = self._new_state()
        self._model.BeginSentenceWrite(state)
        return state

    def score(self, state: Any, token: int) -> tuple[float, Any]:
        """Return ln p(token | state), and the state after it."""
        after = self._new_state()
        return self._model.BaseScore(state, self._symbols[token], after) * LN10, after

    def end(self, state: Any) -> float:
        """Return ln p(end of sentence | state)."""
        return float(self._model.BaseScore(state, "</s>", self._new_state())) * LN10

    def perplexity(self, sentences: Iterable[Sequence[int]]) -> float:
        """Compute the perplexity a token, end of sentence counted; NaN without a sentence."""
        total, count = 0.0, 0
        for sentence in sentences:
            text = " ".join(self._symbols[token] for token in sentence)
            total += self._model.score(text, bos=True, eos=True) * LN10
            count += len(sentence) + 1
        return math.exp(-total / count) if count else math.nan


def read_description(folder: Path, pieces: Sequence[str] | None = None) -> dict[str, Any]:
    """Read ``lm.json`` of a language model; UserError when there is none or it is of another vocabulary."""
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        wanted = description["vocabulary_sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no whole language model in {folder}: make one with recipes/train_lm.py --out {folder}"
        ) from error
    if pieces is not None and vocabulary_hash(pieces) != wanted:
        raise UserError(
            f"the language model in {folder} is of another vocabulary ({description['vocab_size']} tokens, "
            f"the model has {len(pieces)}): train it with recipes/train_lm.py --model and this very .nemo"
        )
    return description


def read_weights(folder: Path) -> FusionWeights:
    """Read the weights that were tuned for this language model, else return the defaults."""
    try:
        tuned = json.loads((folder / WEIGHTS).read_text(encoding="utf-8"))
        return FusionWeights(float(tuned["alpha"]), float(tuned["beta"]))
    except FileNotFoundError:
        return FusionWeights()
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / WEIGHTS} holds no alpha and beta: tune again or remove it") from error
