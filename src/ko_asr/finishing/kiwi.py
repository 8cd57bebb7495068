"""Kiwi, a morphological analyser (kiwipiepy, an optional extra): words to morphemes with their tags.

A process loads it once (a second, 330 MB), when the first text needs it. Threads may share it. A text is
analysed once, however many stages look at it; `Token.origin` outlives edits.
"""

import functools
import importlib.util
import threading
from typing import Any, NamedTuple

from ko_asr.errors import UserError
from ko_asr.finishing.draft import Draft, Span

_loading = threading.Lock()


class Token(NamedTuple):
    """A morpheme: its form and tag (Sejong's tag set), its place in the text, and in what was spoken."""

    form: str
    tag: str
    start: int
    end: int
    origin: Span


def is_installed() -> bool:
    """True where kiwipiepy can be imported."""
    return importlib.util.find_spec("kiwipiepy") is not None


def check_installed() -> None:
    """Raise UserError that says how to install kiwipiepy, where it is missing."""
    if not is_installed():
        raise UserError(
            "analyzer is 'kiwi', but kiwipiepy is not installed: run `make setup-kiwi` or leave it at 'auto'"
        )


def load() -> Any:
    """Return the process's one Kiwi."""
    with _loading:
        return _kiwi()


@functools.cache
def _kiwi() -> Any:
    import kiwipiepy

    # Dictionaries of phrases double the memory and the start, and only join names.
    return kiwipiepy.Kiwi(num_workers=1, load_multi_dict=False)


def tokens(draft: Draft) -> list[Token]:
    """The morphemes of ``draft.text`` when it was first asked for them."""
    if draft.tokens is None:
        draft.tokens = [_token(draft, one) for one in load().tokenize(draft.text)]
    return draft.tokens


def _token(draft: Draft, one: Any) -> Token:
    start, end = one.start, one.start + one.len
    return Token(one.form, one.tag, start, end, draft.origin(start, end))
