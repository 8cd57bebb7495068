"""Decoded audio of any length to text and words: pieces, some at a time, in their order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Hashable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ko_asr.client.offline import Transcription
from ko_asr.gateway.audio.decode import Decoded
from ko_asr.gateway.caller import EVERYBODY, Caller
from ko_asr.gateway.engine.pieces import pieces, whole_window
from ko_asr.gateway.engine.seams import Seams
from ko_asr.gateway.settings.gateway import Settings
from ko_asr.recognition.window import Window
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.results import Result, Word

_RULES = EndpointRules()


@dataclass(frozen=True)
class Part:
    """What one piece adds: its ``text``, its words with times since the start, its confidence in 0..1.

    ``pause`` is the encoder frame from which the rest can be recognised alone; 0 where a cut went through
    sound.
    """

    text: str
    words: tuple[Word, ...]
    confidence: float
    pause: int = 0


class Transcriber(Protocol):
    """What transcribes pieces: the recogniser, or a request's share of it."""

    async def transcribe(
        self, samples: np.ndarray, owner: Hashable, caller: Caller, keywords: tuple[str, ...]
    ) -> Transcription:
        """Transcribe float32 [n] when it is ``owner``'s turn. ApiError when that fails."""


async def parts(
    audio: Decoded,
    recogniser: Transcriber,
    settings: Settings,
    caller: Caller = EVERYBODY,
    keywords: tuple[str, ...] = (),
    cut: bool = False,
    begin: int = 0,
) -> AsyncGenerator[Part, None]:
    """Yield the parts of ``audio`` that have text, in order; none is changed later. ApiError.

    ``cut`` short audio as well, where much of it is silence. ``begin`` is the `Part.pause` after which to go
    on.
    """
    seams, whole = Seams(), None if cut else audio.whole
    answered = (
        _answers(audio, recogniser, settings, caller, keywords, begin)
        if whole is None
        else _one_answer(whole, recogniser, caller, keywords)
    )
    async with aclosing(answered) as answers:
        async for window, answer in answers:
            heard = [Word(w["text"], w["start_ms"], w["end_ms"], w["confidence"]) for w in answer.words]
            words = tuple(seams.add(window, heard))
            text = " ".join(word.text for word in words) if whole is None else answer.text.strip()
            if text:
                yield Part(text, words, answer.confidence, window.end if window.pause else 0)


async def _one_answer(
    samples: np.ndarray, recogniser: Transcriber, caller: Caller, keywords: tuple[str, ...]
) -> AsyncGenerator[tuple[Window, Transcription], None]:
    yield whole_window(samples), await recogniser.transcribe(samples, object(), caller, keywords)


async def _answers(
    audio: Decoded,
    recogniser: Transcriber,
    settings: Settings,
    caller: Caller,
    keywords: tuple[str, ...],
    begin: int,
) -> AsyncGenerator[tuple[Window, Transcription], None]:
    windows = (window for window in pieces(audio, settings.piece_seconds) if window.end > begin)
    owner = object()
    ahead: deque[tuple[Window, asyncio.Task[Transcription]]] = deque()
    try:
        while window := await asyncio.to_thread(_next, windows):
            work = recogniser.transcribe(window.samples, owner, caller, keywords)
            ahead.append((window, asyncio.create_task(work)))
            if len(ahead) >= settings.in_flight_each:
                first, task = ahead.popleft()
                yield first, await task
        while ahead:
            first, task = ahead.popleft()
            yield first, await task
    finally:
        for _, task in ahead:
            task.cancel()
        await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)


def _next(windows: Iterator[Window]) -> Window | None:
    return next(windows, None)


def joined_text(found: Sequence[Part]) -> str:
    """The text of all parts."""
    return " ".join(part.text for part in found)


def confidence(found: Sequence[Part]) -> float:
    """The mean of the parts' confidence, each by the length of its text; 0 without text."""
    letters = sum(len(part.text) for part in found)
    return sum(part.confidence * len(part.text) for part in found) / letters if letters else 0.0


def in_utterances(words: Iterable[Word]) -> list[Result]:
    """Words as utterances, which end as those of a live stream do."""
    groups: list[list[Word]] = []
    for word in words:
        if not groups or _ends(groups[-1], word):
            groups.append([])
        groups[-1].append(word)
    return list(map(_utterance, groups))


def _ends(group: list[Word], word: Word) -> bool:
    pause, longest = _RULES.silence_after_speech_ms, _RULES.max_utterance_ms
    assert pause is not None and longest is not None
    return word.start_ms - group[-1].end_ms >= pause or word.end_ms - group[0].start_ms > longest


def _utterance(words: list[Word]) -> Result:
    text = " ".join(word.text for word in words)
    return Result(text, True, words[0].start_ms, words[-1].end_ms, tuple(words))
