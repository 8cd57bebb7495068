"""Where written forms are made: in threads, one for files and one for live speech.

More threads would finish nothing sooner, as it is Python that works. Of a long file one section at a time is
queued, so short ones get between.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from ko_asr.finishing.finisher import Finisher
from ko_asr.finishing.live import LiveFinisher
from ko_asr.finishing.options import FinishOptions
from ko_asr.gateway.engine.heard import Heard
from ko_asr.gateway.engine.long_audio import Part, in_utterances
from ko_asr.gateway.written.forms import (
    as_written,
    divided,
    is_full,
    sections,
    text_of,
    with_forms,
    words_of,
)
from ko_asr.gateway.written.request import Asked
from ko_asr.runtime.results import Result, Word
from ko_asr.runtime.written import settled_words

_T = TypeVar("_T")


class Finishing:
    """The threads of one gateway."""

    def __init__(self) -> None:
        self._files, self._live = ThreadPoolExecutor(1, "written"), ThreadPoolExecutor(1, "written live")

    async def prepare(self) -> None:
        """Read the rules, which takes the first who needs them a second."""
        await asyncio.to_thread(Finisher)

    def close(self) -> None:
        """Let what is running end."""
        self._files.shutdown(cancel_futures=True)
        self._live.shutdown(cancel_futures=True)

    async def finished(self, heard: Heard, asked: Asked | None) -> Heard:
        """``heard`` with its written form, as ``asked``."""
        if asked is None:
            return heard
        channels = []
        for number in range(len(heard.channels)):
            spoken = [one.result for one in heard.utterances if one.channel == number]
            found = [await self.section(section, asked.options) for section in sections(spoken)]
            channels.append([result for section in found for result in section])
        return await self._in_thread(with_forms, heard, channels, asked.instead)

    async def as_it_comes(
        self, source: AsyncGenerator[Part, None], options: FinishOptions
    ) -> AsyncGenerator[str, None]:
        """The written text of `finished` in pieces that follow each other, a section each."""
        words: list[Word] = []
        async with aclosing(source) as parts:
            async for part in parts:
                words += part.words
                ended = in_utterances(words)[:-1]  # the last one may go on
                section = next(sections(ended), [])
                if is_full(section):
                    words = words[len(words_of(section)) :]
                    yield text_of(await self.section(section, options))
        for section in sections(in_utterances(words)):
            yield text_of(await self.section(section, options))

    async def section(self, section: Sequence[Result], options: FinishOptions) -> list[Result]:
        """The utterances of one section (`forms.sections`) with their written forms."""
        form = await self._in_thread(Finisher(options), words_of(section))
        return list(divided(form, section))

    async def _in_thread(self, work: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._files, work, *arguments)

    def live(self, options: FinishOptions) -> "LiveForms":
        """The written forms of one live stream."""
        return LiveForms(LiveFinisher(options), self._live)


class LiveForms:
    """Results of a live stream in their written form; finals are made in a thread, for they may take Kiwi."""

    def __init__(self, finisher: LiveFinisher, thread: ThreadPoolExecutor) -> None:
        self._finisher, self._thread = finisher, thread

    async def __call__(self, result: Result) -> Result:
        """``result`` with its written form as its text, words and ``stable``."""
        if result.is_final:
            loop = asyncio.get_running_loop()
            form = await loop.run_in_executor(self._thread, self._finisher.final, result.words)
        else:
            settled = settled_words(result.text, result.stable)
            form = self._finisher.partial(result.words or _untimed(result), settled)
        return as_written(replace(result, written=form))


def _untimed(result: Result) -> list[Word]:
    """The words of a partial that came as text only."""
    return [Word(text, result.start_ms, result.end_ms, 1.0) for text in result.text.split()]
