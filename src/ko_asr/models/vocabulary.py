"""The vocabulary of a NeMo model as the server spells it."""

import random
from typing import Any

from ko_asr.errors import UserError
from ko_asr.runtime.ctc import TEXT_RULES, Vocabulary


def find_vocabulary(processor: Any, sequences: int = 2000) -> Vocabulary:
    """The vocabulary whose text rule decodes random tokens exactly as SentencePiece ``processor`` does.

    Raises UserError when no rule does: then the server would spell differently from NeMo.
    """
    size = processor.get_piece_size()
    pieces = tuple(processor.id_to_piece(i) for i in range(size))
    silent = frozenset(i for i in range(size) if processor.is_control(i))
    generator = random.Random(0)
    probes = [[generator.randrange(size) for _ in range(generator.randint(0, 24))] for _ in range(sequences)]
    probes += [[i] for i in range(size)]
    wanted = [processor.decode(probe) for probe in probes]
    for rule in TEXT_RULES:
        vocabulary = Vocabulary(pieces, processor.unk_id(), silent, rule)
        if all(vocabulary.text(probe) == text for probe, text in zip(probes, wanted, strict=True)):
            return vocabulary
    raise UserError(
        "the tokenizer's denormalisation is none that the server knows: "
        "use a tokenizer built by tokenizers/build.py"
    )
