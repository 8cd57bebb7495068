"""All stages of finishing in their order, and the one call for all of it.

>>> finish("이천이십사년 삼월 오일에 만 오천 원").text
'2024년 3월 5일에 15,000원'

The order matters: terms are what the user said, so they come first; profanity is looked for among what is
written, so that a number (십팔) is none.
"""

import functools
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ko_asr.errors import UserError
from ko_asr.finishing import kiwi
from ko_asr.finishing.draft import Draft
from ko_asr.finishing.fillers import Fillers
from ko_asr.finishing.itn import Itn
from ko_asr.finishing.masks import Masks
from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.paragraphs import paragraphs
from ko_asr.finishing.sentences import Sentences, first_words, last_words, marked
from ko_asr.finishing.spacing import Spacing
from ko_asr.finishing.terms import Terms
from ko_asr.finishing.words import SpokenWord, Written, written_words

Stage = Callable[[Draft], None]


class Finisher:
    """Compiled options: calling it with words returns their written form. Use one for many texts."""

    def __init__(self, options: FinishOptions | None = None) -> None:
        """UserError for a style that does not exist, a bad term or list, or Kiwi that is not installed."""
        self.options = options or FinishOptions()
        self._stages = list(_stages(self.options))

    def __reduce__(self) -> tuple[type["Finisher"], tuple[FinishOptions]]:
        return Finisher, (self.options,)  # compiled anew where it is unpickled

    def __call__(self, spoken: str | Iterable[str] | Iterable[SpokenWord]) -> Written:
        """Return the written form of words with times, of words, or of a text whose words spaces divide.

        UserError for a word that is empty or holds a space.
        """
        words, timed = _words(spoken)
        draft = Draft(words, timed)
        for stage in self._stages:
            stage(draft)
        made, dropped = written_words(draft, timed)
        lasts = last_words(draft) if made else []
        sentences, most = first_words(lasts), self.options.paragraph_max
        if self.options.punctuation and made:
            made = marked(made, lasts, draft.ends)
        begins = paragraphs(made, sentences, most) if self.options.paragraph_splitter else ()
        return Written(" ".join([word.text for word in made]), made, dropped, sentences, begins)


# What each stage compiled to, for all finishers of this process: of a user's own lists only the last ones,
# each of which may take megabytes.
_terms = functools.lru_cache(16)(lambda pairs: Terms(dict(pairs)))
_masks = functools.lru_cache(16)(Masks)
_itn = functools.lru_cache(16)(lambda style: Itn(dict(style)))
_fillers, _spacing, _sentences = map(functools.cache, (Fillers, Spacing, Sentences))


def _stages(options: FinishOptions) -> Iterator[Stage]:
    """The stages that ``options`` ask for, in their order."""
    if options.terms:
        yield _terms(tuple(options.terms.items()))
    fillers = [_fillers(options.disfluency_level == "aggressive")] if options.disfluency_filter else []
    yield from fillers
    if options.analyzer == "kiwi":
        kiwi.check_installed()
    with_kiwi = options.analyzer != "rules" and kiwi.is_installed()
    if options.spacing:
        yield _spacing(with_kiwi)
        yield from fillers  # 학교 학교 에서 is a repetition once it is 학교 학교에서
    if options.punctuation or options.paragraph_splitter:
        yield _sentences(with_kiwi)
    if options.itn:
        yield _itn(tuple(sorted(options.style.items())))
    if options.profanity_filter:
        yield _masks(tuple(options.profanity), options.profanity_keep_first)


def _words(
    spoken: str | Iterable[str] | Iterable[SpokenWord],
) -> tuple[list[str], Sequence[SpokenWord] | None]:
    """The words and, where they have times, the same with these. UserError for what is no word."""
    if isinstance(spoken, str):
        return unicodedata.normalize("NFC", spoken).split(), None
    given: list[Any] = list(spoken)
    texts = (word if isinstance(word, str) else word.text for word in given)
    words = [unicodedata.normalize("NFC", text) for text in texts]
    if words and ("" in words or " ".join(words).split(" ") != words):
        number, word = next((k, word) for k, word in enumerate(words) if not word or " " in word)
        raise UserError(f"word {number} is {word!r:.60}: give words that are not empty and hold no spaces")
    timed = bool(given) and not isinstance(given[0], str) and given[0].start_ms is not None
    return words, given if timed else None


def finish(
    spoken: str | Iterable[str] | Iterable[SpokenWord], options: FinishOptions | None = None
) -> Written:
    """Return the written form of a text or of words. UserError for an option that does not exist."""
    return Finisher(options)(spoken)
