"""All stages of finishing in their order, and the one call for all of it.

>>> finish("이천이십사년 삼월 오일에 만 오천 원").text
'2024년 3월 5일에 15,000원'

The order matters: terms are what the user said, so they come first; profanity is looked for among what is
written, so that a number (십팔) is none.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence

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

    def __call__(self, spoken: str | Sequence[str] | Sequence[SpokenWord]) -> Written:
        """Return the written form of words with times, of words, or of a text whose words spaces divide."""
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


def _stages(options: FinishOptions) -> Iterator[Stage]:
    """The stages that ``options`` ask for, in their order."""
    if options.terms:
        yield Terms(options.terms)
    fillers = [Fillers(options.disfluency_level == "aggressive")] if options.disfluency_filter else []
    yield from fillers
    if options.analyzer == "kiwi":
        kiwi.check_installed()
    with_kiwi = options.analyzer != "rules" and kiwi.is_installed()
    if options.spacing:
        yield Spacing(with_kiwi)
        yield from fillers  # 학교 학교 에서 is a repetition once it is 학교 학교에서
    if options.punctuation or options.paragraph_splitter:
        yield Sentences(with_kiwi)
    if options.itn:
        yield Itn(options.style)
    if options.profanity_filter:
        yield Masks(options.profanity, options.profanity_keep_first)


def _words(
    spoken: str | Sequence[str] | Sequence[SpokenWord],
) -> tuple[list[str], Sequence[SpokenWord] | None]:
    if isinstance(spoken, str):
        return spoken.split(), None
    if spoken and not isinstance(spoken[0], str):
        return [word.text for word in spoken], spoken  # type: ignore[union-attr,return-value]
    return list(spoken), None  # type: ignore[arg-type]


def compiled(options: FinishOptions | None = None) -> Finisher:
    """Return the finisher of these options, made when they are first asked for. UserError as `Finisher`."""
    return _compiled(json.dumps((options or FinishOptions()).to_json(), sort_keys=True))


@functools.lru_cache(maxsize=64)
def _compiled(options: str) -> Finisher:
    return Finisher(FinishOptions.from_json(json.loads(options)))


def finish(
    spoken: str | Sequence[str] | Sequence[SpokenWord], options: FinishOptions | None = None
) -> Written:
    """Return the written form of a text or of words. UserError for an option that does not exist."""
    return compiled(options)(spoken)
