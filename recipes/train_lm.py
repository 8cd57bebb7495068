"""Train an n-gram over a model's own tokens, for NeMo's beam_batch and the streaming beam search:

    python recipes/train_lm.py --model X.nemo --manifest data/ksponspeech/train.jsonl --out lm/ksponspeech
    python recipes/train_lm.py --tokenizer tokenizers/jamo --manifest ... --text news.txt --order 6 \
        --out lm/big --dev data/ksponspeech/dev.jsonl --held-out data/ksponspeech/eval_clean.jsonl

Manifests are taken as they are, text files go through the text rules of --style line by line, and what these
reject is counted; --spoken first writes them as they are said (3시: 세 시). lmplz (make lmplz) counts on
disk, whatever the size; without it the same model is made in memory.
Training text only: sentences of --dev and --held-out that stand in it are counted, and too many are refused.
"""

import argparse
import itertools
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.files import atomic_write
from ko_asr.finishing.spoken import spoken
from ko_asr.models.nemo_file import check_nemo_file, tokenizer_bytes
from ko_asr.provenance import provenance, sha256
from ko_asr.text import language_model, tokenizer
from ko_asr.text.normalizer import PLAIN, Normalizer, add_style_argument
from ko_asr.text.plain_files import text_lines
from ko_asr.text.unicode_forms import fold_forms

LONG_SENTENCE = 12  # characters; shorter ones (네, 맞아요) occur everywhere
BATCH = 2_000  # sentences given to SentencePiece at once

BUILT = Path(__file__).resolve().parents[1] / ".build" / "kenlm"  # by make lmplz


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="the .nemo whose tokens to use")
    source.add_argument("--tokenizer", type=Path, help="or its tokenizer folder")
    parser.add_argument(
        "--manifest", type=Path, nargs="+", default=[], help="NeMo manifests of training data"
    )
    parser.add_argument(
        "--text", type=Path, nargs="+", default=[], help="further text, UTF-8, a sentence a line"
    )
    add_style_argument(parser)
    parser.add_argument(
        "--spoken", action="store_true", help="numbers, units and abbreviations of --text as they are said"
    )
    parser.add_argument("--order", type=int, default=5, help="longest n-gram (default 5)")
    parser.add_argument("--dev", type=Path, help="manifest whose perplexity to print")
    parser.add_argument(
        "--held-out", type=Path, nargs="+", default=[], help="manifests that must not be in the text"
    )
    parser.add_argument(
        "--max-overlap", type=float, default=0.01, help="highest share of held-out sentences in the text"
    )
    parser.add_argument("--memory", default="30%", help="what lmplz may use, such as 30%% or 4G")
    parser.add_argument("--in-memory", action="store_true", help="estimate without lmplz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the language model")
    args = parser.parse_args()
    if not args.manifest and not args.text:
        parser.error("give --manifest or --text")
    if args.spoken and (args.style != PLAIN or not args.text):
        parser.error(f"--spoken is for --text of --style {PLAIN}: other transcriptions hold what was said")
    if not 2 <= args.order <= language_model.MAX_ORDER:
        parser.error(f"--order must be 2 to {language_model.MAX_ORDER}")
    return args


def manifest_texts(path: Path) -> Iterator[str]:
    for number, entry in enumerate(read_manifest(path), 1):
        if not isinstance(entry.get("text"), str):
            raise UserError(f"utterance {number} of {path} has no text: prepare the corpus again")
        yield entry["text"]


class TrainingText:
    """Sentences as token ids, streamed once; it counts what passes and what is held out."""

    def __init__(self, args: argparse.Namespace, processor: sentencepiece.SentencePieceProcessor) -> None:
        self._args, self._tokenizer = args, processor
        self.sentences = self.tokens = self.unknown = 0
        self._normalizer = Normalizer(args.style)
        self.rejected: Counter[str] = Counter()  # lines of text files, by the rule's reason
        paths = [path for path in (args.dev, *args.held_out) if path]
        self.held_out = {
            text for path in paths for text in manifest_texts(path) if len(text) >= LONG_SENTENCE
        }
        self.overlap: set[str] = set()

    def _texts(self) -> Iterator[str]:
        sources = [*map(manifest_texts, self._args.manifest), *map(self._cleaned, self._args.text)]
        for text in itertools.chain.from_iterable(sources):
            if text in self.held_out:
                self.overlap.add(text)
            yield text

    def _cleaned(self, path: Path) -> Iterator[str]:
        """Yield the lines of a text file by the text rules, and count those that they reject."""
        for line in text_lines(path):
            cleaned = self._normalizer.clean(spoken(fold_forms(line)) if self._args.spoken else line)
            if cleaned.reason:
                self.rejected[cleaned.reason] += 1
            else:
                yield cleaned.text

    def __iter__(self) -> Iterator[list[int]]:
        from tqdm import tqdm

        unknown = self._tokenizer.unk_id()
        texts = tqdm(self._texts(), desc="reading", unit=" sentences", unit_scale=True, file=sys.stderr)
        while batch := list(itertools.islice(texts, BATCH)):
            for tokens in self._tokenizer.encode(batch, num_threads=1):
                self.sentences += bool(tokens)
                self.tokens += len(tokens)
                self.unknown += tokens.count(unknown)
                yield tokens

    def check(self) -> None:
        """Raise UserError when the text was empty or holds too much of what it must not."""
        if self.rejected:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.rejected.most_common())
            print(f"warning: {self.rejected.total()} lines of the text files are left out ({reasons})")
        if not self.tokens:
            raise UserError(language_model.NO_SENTENCE)
        share = len(self.overlap) / max(1, len(self.held_out))
        if share > self._args.max_overlap:
            raise UserError(
                f"{share:.1%} of the held-out sentences stand in the training text (such as "
                f"'{min(self.overlap)}'): take them out, or allow it with --max-overlap"
            )
        if self.overlap:
            print(f"warning: {len(self.overlap)} held-out sentences ({share:.1%}) stand in the training text")
        if self.unknown:
            print(f"warning: {self.unknown} of {self.tokens} tokens are unknown: check the text rules")


def load_tokenizer(args: argparse.Namespace) -> sentencepiece.SentencePieceProcessor:
    """Load the SentencePiece processor of --tokenizer, or the one inside --model."""
    if args.tokenizer:
        return tokenizer.load(args.tokenizer)
    check_nemo_file(args.model)
    model = tokenizer_bytes(args.model)
    if model is None:
        raise UserError(f"{args.model} holds no SentencePiece tokenizer: give a model with sub-word tokens")
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def check_inputs(args: argparse.Namespace) -> None:
    for path in (*args.manifest, *args.text, *args.held_out, *([args.dev] if args.dev else [])):
        if not path.is_file():
            raise UserError(f"no file {path}: prepare a corpus first, or mend the path")
    args.out.mkdir(parents=True, exist_ok=True)


def estimate(args: argparse.Namespace, text: TrainingText, size: int) -> str:
    """Write lm.arpa and lm.binary into --out; return the name of the estimator."""
    lmplz, binary_builder = (language_model.tool(name, BUILT) for name in language_model.TOOLS)
    if args.in_memory:
        lmplz = None
    way = "with lmplz" if lmplz else "in memory (make lmplz for large texts)"
    print(f"estimating order {args.order} {way}", flush=True)
    with tempfile.TemporaryDirectory(dir=args.out, prefix=".lm-") as scratch:
        arpa = Path(scratch) / language_model.ARPA
        if lmplz:
            language_model.estimate_on_disk(lmplz, text, args.order, arpa, args.memory)
        else:
            language_model.estimate_in_memory(text, args.order, size, arpa)
        text.check()
        binary = language_model.build_binary(binary_builder, arpa) if binary_builder else None
        # The old description goes first and the new one comes last: a folder that has one is whole.
        for name in (language_model.DESCRIPTION, language_model.WEIGHTS, language_model.BINARY):
            (args.out / name).unlink(missing_ok=True)
        for path in filter(None, (arpa, binary)):
            path.replace(args.out / path.name)
    return "lmplz" if lmplz else "ko_asr.text.kneser_ney"


def main() -> None:
    args = arguments()
    check_inputs(args)
    processor = load_tokenizer(args)
    pieces = [processor.id_to_piece(token) for token in range(processor.get_piece_size())]
    if len(pieces) > language_model.MAX_TOKENS:
        raise UserError(
            f"the tokenizer has {len(pieces)} pieces; at most {language_model.MAX_TOKENS} can be written"
        )
    text = TrainingText(args, processor)
    estimator = estimate(args, text, len(pieces))
    description = {
        "order": args.order,
        "vocab_size": len(pieces),
        "vocabulary_sha256": language_model.vocabulary_hash(pieces),
        "token_offset": language_model.TOKEN_OFFSET,
        "estimator": estimator,
        "sentences": text.sentences,
        "tokens": text.tokens,
        "sources": {str(path): sha256(path) for path in (*args.manifest, *args.text)},
        "spoken": args.spoken,
        "held_out_overlap": [len(text.overlap), len(text.held_out)],
        "arpa_sha256": sha256(args.out / language_model.ARPA),
    } | provenance(("sentencepiece", "kenlm", "numpy"))
    with atomic_write(args.out / language_model.DESCRIPTION) as stream:
        json.dump(description, stream, ensure_ascii=False, indent=2)
    print(f"{text.sentences} sentences, {text.tokens} tokens, order {args.order}")
    if args.dev:
        perplexity = language_model.LanguageModel(args.out).perplexity(
            processor.encode(list(manifest_texts(args.dev)))
        )
        print(f"perplexity a token on {args.dev}: {perplexity:.2f}")
        with atomic_write(args.out / language_model.DESCRIPTION) as stream:
            json.dump(description | {"dev_perplexity": perplexity}, stream, ensure_ascii=False, indent=2)
    print(f"wrote {args.out}/" + ", ".join(sorted(path.name for path in args.out.glob("lm.*"))))
    model = args.model or "X.nemo"
    print(
        f"next: python recipes/evaluate.py --model {model} --lm {args.out} --tune DEV.jsonl "
        "--manifest M.jsonl --out DIR"
    )


if __name__ == "__main__":
    run_main(main)
