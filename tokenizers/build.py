"""Build a Korean tokenizer (a plain SentencePiece model that stock NeMo loads).

    python tokenizers/build.py --type unigram --manifest data/ksponspeech/train.jsonl --vocab-size 5000 \
        --out tokenizers/ksponspeech_unigram
    python tokenizers/build.py --type jamo --out tokenizers/jamo        # needs no text

Types: unigram, bpe, syllable (8x subsampling); jamo (4x); jamo-bpe (8x). Learn from training text only:
a tokenizer that has read the dev or eval text makes their scores too good.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from ko_asr.corpora.layout import text_of
from ko_asr.data.manifest import read_manifest
from ko_asr.errors import UserError, run_main
from ko_asr.text.plain_files import text_lines
from ko_asr.text.tokenizer import TYPES, load, train


def texts_of(manifests: list[Path], files: list[Path]) -> Iterator[str]:
    """Yield the text of every manifest line, then every non-empty line of the text files (UTF-8).

    UserError names an entry whose text is missing or no text; such lines of a text file (null, nan) are left
    out and counted, as they come from a table with gaps.
    """
    for manifest in manifests:
        for number, entry in enumerate(read_manifest(manifest), 1):
            text, problem = text_of(entry.get("text"))
            if problem:
                raise UserError(f"{manifest}, entry {number}: {problem}: prepare the corpus again")
            yield text
    for file in files:
        yield from _lines_of(file)


def _lines_of(file: Path) -> Iterator[str]:
    missing = 0
    for line in text_lines(file):
        text, problem = text_of(line)
        missing += bool(problem)
        if text:
            yield text
    if missing:
        print(f"note: {missing} lines of {file} are no text (null, nan or of enormous length): left out")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--type", choices=TYPES, required=True, dest="kind")
    parser.add_argument(
        "--manifest", type=Path, nargs="+", default=[], help="NeMo manifests of training data"
    )
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="further text, one sentence a line")
    parser.add_argument("--vocab-size", type=int, help="default: 1024; for syllable and jamo every character")
    parser.add_argument("--out", type=Path, required=True, help="folder for tokenizer.model and vocab.txt")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.vocab_size is not None and arguments.vocab_size < 8:
        raise UserError(f"--vocab-size {arguments.vocab_size} is too small for Korean: use at least 8")
    given = arguments.manifest or arguments.text
    texts = texts_of(arguments.manifest, arguments.text) if given else None
    train(arguments.kind, texts, arguments.out, arguments.vocab_size)
    size = load(arguments.out).get_piece_size()
    print(f"{arguments.kind} tokenizer with {size} pieces: {arguments.out}/tokenizer.model, vocab.txt")
    subsampling = "_jamo" if arguments.kind == "jamo" else ""
    print(
        f"next: python recipes/train_ctc.py --config-name fastconformer_ko{subsampling} "
        f"model.tokenizer.dir={arguments.out}"
    )


if __name__ == "__main__":
    run_main(main)
