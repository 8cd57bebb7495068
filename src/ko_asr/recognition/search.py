"""The search that a command line asks for: greedy, or a beam with a language model or keywords."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ko_asr.finishing.options import FinishOptions
from ko_asr.runtime.ctc import Vocabulary
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.decoder import make_decoder
from ko_asr.runtime.keywords import Keyword, parse_keywords
from ko_asr.runtime.prefix_search import BeamOptions
from ko_asr.runtime.results import Decoder
from ko_asr.text.language_model import LanguageModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that `Search.of` reads."""
    group = parser.add_argument_group("beam search, where one of --lm and --keyword is given")
    group.add_argument(
        "--lm", type=Path, metavar="DIR", help="a language model that recipes/train_lm.py wrote"
    )
    group.add_argument("--alpha", type=float, default=0.5, help="its weight (default 0.5)")
    group.add_argument("--beta", type=float, default=0.0, help="what each token earns (default 0)")
    group.add_argument(
        "--keyword",
        action="append",
        default=[],
        metavar="단어[:점수]",
        help="a word to favour, -5 to 5; repeatable",
    )


@dataclass(frozen=True)
class Search:
    """The search of one run. UserError for invalid keywords."""

    keywords: Sequence[Keyword] = ()
    language_model: Path | None = None
    alpha: float = 0.5
    beta: float = 0.0

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Search":
        """Make the search of a command line with `add_arguments`. UserError for invalid keywords."""
        return cls(parse_keywords(args.keyword), args.lm, args.alpha, args.beta)

    @property
    def top(self) -> int:
        """Tokens a frame that `decoder` wants."""
        return BeamOptions().tokens_a_frame if self.keywords or self.language_model else 1

    def decoder(self, settings: DecoderSettings, written: FinishOptions | None = None) -> Decoder:
        """A decoder for one stream or file, with the written form where ``written`` asks for it.

        UserError for a language model of another vocabulary, and for a written form that cannot be.
        """
        scorer, options = self._scorer(settings.vocabulary), BeamOptions(alpha=self.alpha, beta=self.beta)
        return make_decoder(settings, self.keywords, scorer, options, written)

    def _scorer(self, vocabulary: Vocabulary) -> LanguageModel | None:
        if self.language_model is None:
            return None
        if "scorer" not in self._loaded:
            self._loaded["scorer"] = LanguageModel(self.language_model, vocabulary.pieces)
        return self._loaded["scorer"]

    @cached_property
    def _loaded(self) -> dict[str, LanguageModel]:
        return {}
