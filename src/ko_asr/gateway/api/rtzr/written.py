"""RTZR's switches of the text, and its paragraphs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from ko_asr.finishing.options import FinishOptions
from ko_asr.finishing.words import Written
from ko_asr.gateway.engine.heard import Utterance
from ko_asr.gateway.written.forms import as_written
from ko_asr.gateway.written.request import finish_options
from ko_asr.runtime.results import Result


def finished_by(switches: Mapping[str, bool], default: FinishOptions | None) -> FinishOptions | None:
    """The options of ``switches``, the others by the server's ``default``; None where all are off."""
    return finish_options(dict(switches), default) if any(switches.values()) else None


def shown(spoken: Sequence[Utterance], most: int | None) -> Iterator[Result]:
    """Utterances as they are written, those of more than ``most`` letters in paragraphs (None: whole)."""
    for one in spoken:
        result = one.result
        if result.written is None:
            yield result
        elif most is None:
            yield as_written(result)
        else:
            yield from _paragraphs(as_written(result), result.written, most)


def _paragraphs(result: Result, form: Written, most: int) -> Iterator[Result]:
    """A paragraph ends where the next sentence would take it past ``most`` letters, so it may be longer."""
    letters = [len(word.text) for word in result.words]
    begins = [0]
    for sentence, after in pairwise([*form.sentences, len(letters)]):
        if sentence and sum(letters[begins[-1] : after]) > most:
            begins.append(sentence)
    for begin, end in pairwise([*begins, len(letters)]):
        words = result.words[begin:end]
        if words:
            text = " ".join(word.text for word in words)
            yield replace(result, text=text, words=words, start_ms=words[0].start_ms, end_ms=words[-1].end_ms)
