"""Words that a request favours: its keywords, which must be right, and hints, which may be.

Keywords are what a client has named one by one: an invalid one, or one that the model cannot spell, is
refused by name. Hints are the Hangul words of a prompt, written by somebody who did not think of boosting:
they count little, and those that cannot be used are left out.
"""

import re
import unicodedata
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass

from ko_asr.client.connection import KeywordsNotTaken, RequestRefused
from ko_asr.errors import UserError
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.errors import ApiError
from ko_asr.runtime.keywords import MOST_KEYWORDS, MOST_LETTERS, MOST_LETTERS_TOGETHER, parse_keywords

Take = Callable[[tuple[str, ...], Hashable, Caller], Awaitable[None]]
HINT_SCORE = 1.0
_WORD = re.compile(f"[가-힣]{{2,{MOST_LETTERS}}}")


@dataclass(frozen=True)
class Keywords:
    """What a request asks for, within the limits together: 단어 or 단어:점수, and hints."""

    keywords: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()


def read_keywords(given: Sequence[str], prompt: str = "") -> Keywords:
    """The keywords ``given`` and the words of ``prompt`` beside them. ApiError names an invalid keyword."""
    keywords = tuple(word for word in given if word.strip())
    try:
        parsed = parse_keywords(keywords)
    except UserError as error:
        raise ApiError(400, str(error), param="keywords", code="invalid_keyword") from error
    taken = {keyword.text for keyword in parsed}
    words = [word for word in _words(prompt) if word not in taken]
    room = MOST_LETTERS_TOGETHER - sum(map(len, taken))
    return Keywords(keywords, _hints(words, MOST_KEYWORDS - len(taken), room))


def _words(prompt: str) -> list[str]:
    """The Hangul words of two syllables and more, the last one first: a prompt's end counts most."""
    return list(dict.fromkeys(reversed(_WORD.findall(unicodedata.normalize("NFC", prompt)))))


def _hints(words: Sequence[str], most: int, room: int) -> tuple[str, ...]:
    hints: list[str] = []
    for word in words[:most]:
        if (room := room - len(word)) < 0:
            break
        hints.append(f"{word}:{HINT_SCORE:g}")
    return tuple(hints)


async def usable(take: Take, wanted: Keywords, caller: Caller) -> tuple[str, ...]:
    """The keywords and hints that the served model takes. ApiError for a keyword that it does not take.

    ``take`` is `Recogniser.try_keywords`, or `Recogniser.try_stream_keywords`.
    """
    if not wanted.keywords and not wanted.hints:
        return ()
    trial = _Trial(take, caller)
    if await trial.passes((*wanted.keywords, *wanted.hints)):
        return (*wanted.keywords, *wanted.hints)
    if wanted.keywords and not await trial.passes(wanted.keywords):
        raise _refusal(trial.refusal)
    return (*wanted.keywords, *await trial.passing(wanted.hints))


class _Trial:
    """Keywords tried on a moment of silence, which costs next to nothing; turns are the request's own."""

    def __init__(self, take: Take, caller: Caller) -> None:
        self._take, self._caller = take, caller
        self.refusal = RequestRefused("INVALID_ARGUMENT", "")

    async def passes(self, words: tuple[str, ...]) -> bool:
        """True when the model takes ``words``; else `refusal` tells why not."""
        try:
            await self._take(words, self, self._caller)
        except RequestRefused as error:
            self.refusal = error
            return False
        return True

    async def passing(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """Those of ``words``, refused together, that the model takes: halves are tried."""
        if isinstance(self.refusal, KeywordsNotTaken) or len(words) < 2:
            return ()
        found: tuple[str, ...] = ()
        for half in (words[: len(words) // 2], words[len(words) // 2 :]):
            found += half if await self.passes(half) else await self.passing(half)
        return found


def _refusal(error: RequestRefused) -> ApiError:
    if isinstance(error, KeywordsNotTaken):
        sentence = "the served model takes no keywords: leave them out, or have the model exported again"
        return ApiError(400, sentence, param="keywords", code="unsupported_parameter")
    sentence = str(error).removeprefix(f"{error.code}: ")
    return ApiError(400, sentence, param="keywords", code="invalid_keyword")
