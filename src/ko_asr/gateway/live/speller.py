"""Which keywords the served model can spell, and so hear: only the server knows, so it is asked."""

from collections.abc import Sequence

import numpy as np

from ko_asr.client.connection import RequestRefused, ServerError
from ko_asr.errors import UserError
from ko_asr.gateway.caller import Caller
from ko_asr.gateway.engine.recogniser import Recogniser, api_error
from ko_asr.gateway.errors import ApiError
from ko_asr.runtime.frames import SAMPLE_RATE
from ko_asr.runtime.keywords import parse_keywords
from ko_asr.runtime.options import StreamOptions

_KEPT = 10_000  # words whose answer is remembered
_MOMENT = np.zeros(SAMPLE_RATE // 4, np.float32)


class Speller:
    """Asks with a stream of a moment's silence, once for all words, and by halves where some are refused."""

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser = recogniser
        self._known: dict[str, bool] = {}

    async def checked(self, keywords: Sequence[str], param: str, caller: Caller) -> tuple[str, ...]:
        """``keywords``, written as 단어 or 단어:점수. ApiError, with ``param``, for one that is no good."""
        try:
            words = [keyword.text for keyword in parse_keywords(keywords)]
        except UserError as error:
            raise ApiError(400, str(error), param=param, code="invalid_value") from None
        if bad := await self.unknown(words, caller):
            sentence = f"this model has no tokens for the keyword {bad[0][:40]!r}: write it as it is spoken"
            raise ApiError(400, sentence, param=param, code="invalid_value")
        return tuple(keywords)

    async def unknown(self, words: Sequence[str], caller: Caller) -> list[str]:
        """Those of ``words`` that the model cannot spell. ApiError when it does not answer."""
        if len(self._known) > _KEPT:
            self._known.clear()
        await self._ask([word for word in words if word not in self._known], caller)
        return [word for word in words if not self._known[word]]

    async def _ask(self, words: list[str], caller: Caller) -> None:
        if not words:
            return
        if await self._are_taken(words, caller):
            self._known.update(dict.fromkeys(words, True))
        elif len(words) == 1:
            self._known[words[0]] = False
        else:
            half = len(words) // 2
            await self._ask(words[:half], caller)
            await self._ask(words[half:], caller)

    async def _are_taken(self, words: list[str], caller: Caller) -> bool:
        options = StreamOptions(keywords=tuple(f"{word}:1" for word in words))
        stream = await self._recogniser.open_stream(options, caller)
        try:
            await stream.send(_MOMENT)
            await stream.finish()
            async for _ in stream:
                pass
        except RequestRefused:
            return False
        except ServerError as error:
            raise api_error(error) from error
        finally:
            await stream.close()
        return True
