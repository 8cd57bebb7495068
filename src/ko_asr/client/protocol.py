"""The client's side of a live stream, without any network: audio in, requests out; answers in, results out.

Both edges of `ko_asr.client.streaming`, blocking and asyncio, drive this one core. It cuts packets of any
size into the chunks that the server wants, keeps the audio of the utterance that is not final yet, and after
a loss begins a new sequence with that audio, so that no word is missing. docs/wire-format.md has the rest.
"""

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ko_asr.client.connection import RequestRefused, ServerError
from ko_asr.errors import UserError
from ko_asr.finishing.words import Written
from ko_asr.runtime.results import Result, Word

_KEPT_WITHOUT_SPEECH = 1.0  # seconds: a word may have begun that no result shows yet
_BYTES = 4  # of a float32 sample
_WAITS = (0.1, 0.2, 0.5, 1.0)  # seconds before the next attempt to resume; the last one repeats


@dataclass(frozen=True)
class ChunkSizes:
    """The audio that a request brings, in samples; parameters of the ensemble give it."""

    sample_rate: int  # Hz
    first_samples: int  # complete the first chunk
    shift_samples: int  # complete each further one
    end_samples: int  # the most after a chunk's beginning that the last request may reach
    max_streams: int

    @classmethod
    def from_parameters(cls, model: str, parameters: Mapping[str, str]) -> "ChunkSizes":
        """Read a model's parameters. UserError when it is no streaming model of this project."""
        try:
            return cls(**{field.name: int(parameters[field.name]) for field in fields(cls)})
        except (KeyError, ValueError) as error:
            raise UserError(
                f"{model} is no streaming model of this project: name one with --model"
            ) from error

    @property
    def chunk_seconds(self) -> float:
        """Seconds from one chunk to the next."""
        return self.shift_samples / self.sample_rate


@dataclass(frozen=True)
class Request:
    """One request of a sequence: float32 ``audio`` [1, n], n >= 0 at the end and > 0 before it.

    ``position`` is the last sample it brings, counted from the start of the stream.
    """

    sequence_id: int
    audio: np.ndarray
    start: bool
    end: bool
    position: int


class Fresh:
    """What of a stream's results is news: a partial that repeats the one shown last is none."""

    def __init__(self) -> None:
        self._shown = ("", 0)

    def of(self, results: Sequence[Result]) -> list[Result]:
        """The news among ``results``, which come together."""
        fresh = [result for result in results if result.is_final or self._key(result) != self._shown]
        if results:
            last = results[-1]
            self._shown = ("", last.utterance + 1) if last.is_final else self._key(last)
        return fresh

    @staticmethod
    def _key(result: Result) -> tuple[str, int]:
        return result.text, result.utterance


class StreamProtocol:
    """One stream. Feed audio, send what `request` gives, and hand the answer to `answered`."""

    def __init__(self, sizes: ChunkSizes, keep_seconds: float = 60.0) -> None:
        """Keep at most ``keep_seconds`` of an utterance for a resumption."""
        self.sizes = sizes
        self._keep = int(keep_seconds * sizes.sample_rate)
        self._audio = bytearray()  # float32, from sample _base on
        self._base = self._total = self._cut = 0  # samples; _cut: what lies before it is final
        self._utterances = 0  # that are final
        self._ended = False
        self._fresh = Fresh()
        self._begin()

    def _begin(self) -> None:
        """Begin a new sequence from the last cut on."""
        self.sequence_id = 1 + secrets.randbelow(2**63 - 1)
        self._origin = self._sent = self._cut
        self._first_utterance = self._utterances
        self._index = 0
        self.done = False

    @property
    def open_on_server(self) -> bool:
        """True while the server may hold a place for this sequence."""
        return self._index > 0 and not self.done

    @property
    def pending(self) -> int:
        """Samples that no request has brought yet."""
        return self._total - self._sent

    @property
    def ready(self) -> bool:
        """True when there is audio enough for a request."""
        begun = self.sizes.shift_samples * self._index
        return not self.done and (
            self._ended or self._total - self._origin >= begun + self.sizes.first_samples
        )

    def feed(self, samples: np.ndarray) -> None:
        """Take float samples [n] in -1..1. UserError for other types and shapes, NaN, and after `end`."""
        if self._ended:
            raise UserError("the stream has ended: open another one")
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.kind != "f":
            raise UserError(f"a packet is float samples [n] in -1..1, not {samples.dtype} {samples.shape}")
        samples = samples.astype(np.float32, copy=False)
        if not np.isfinite(samples).all():
            raise UserError("a packet holds NaN or infinity: nothing of it was taken")
        self._audio += samples.tobytes()
        self._total += len(samples)

    def end(self) -> None:
        """End the audio."""
        self._ended = True

    def request(self) -> Request | None:
        """The request to send now: None when more audio must come first, or after the last one (``done``).

        One request at a time: the next one after the answer to this one.
        """
        have, start = self._total - self._origin, self.sizes.shift_samples * self._index
        if self.done or (self._ended and not have):
            self.done = True
            return None
        last = self._ended and have - start <= self.sizes.end_samples
        stop = have if last else start + self.sizes.first_samples
        if have < stop:
            return None
        self._sent = self._origin + stop
        request = Request(
            self.sequence_id, self._slice(self._asked, self._sent), not self._index, last, self._sent
        )
        self._index += 1
        return request

    @property
    def _asked(self) -> int:
        """The end of the audio of all earlier requests of this sequence."""
        previous = self.sizes.shift_samples * (self._index - 1) + self.sizes.first_samples
        return self._origin + (previous if self._index else 0)

    def _slice(self, start: int, stop: int) -> np.ndarray:
        part = self._audio[_BYTES * (start - self._base) : _BYTES * (stop - self._base)]
        return np.frombuffer(part, np.float32)[None]

    def answered(self, request: Request, outputs: Mapping[str, np.ndarray]) -> list[Result]:
        """The news of an answer: finals, and the partial after them unless it was shown already."""
        results = self._parse(outputs)
        for result, after in zip(results, [*results[1:], None], strict=True):
            if result.is_final:
                self._utterances = result.utterance + 1
                self._move_cut(result, after, request.position)
        self.done = request.end
        self._forget()
        return self._fresh.of(results)

    def _parse(self, outputs: Mapping[str, np.ndarray]) -> list[Result]:
        """Results with times and numbers counted from the start of the stream, not of the sequence."""
        later = round(1000 * self._origin / self.sizes.sample_rate)
        names = ("text", "is_final", "words", "utterance", "stable")
        columns = [outputs[name][0] for name in names]
        columns.append(outputs["written"][0] if "written" in outputs else [b""] * len(columns[0]))
        results = []
        for text, final, words, utterance, stable, written in zip(*columns, strict=True):
            found = tuple(_word(word, later) for word in json.loads(words))
            start, end = (found[0].start_ms, found[-1].end_ms) if found else (later, later)
            number = self._first_utterance + int(utterance)
            form = Written.from_json(json.loads(written), later) if written else None
            results.append(
                Result(
                    text.decode(), bool(final), start, end, found, int(stable), utterance=number, written=form
                )
            )
        return results

    def _move_cut(self, final: Result, after: Result | None, position: int) -> None:
        """Move the start of a new sequence halfway between the last final word and what follows it."""
        rate = self.sizes.sample_rate
        if final.words:
            next_ms = after.words[0].start_ms if after and after.words else 1000 * position / rate
            cut = round(rate * (final.end_ms + next_ms) / 2000)
        else:
            cut = round(position - _KEPT_WITHOUT_SPEECH * rate)
        self._cut = max(self._cut, min(cut, position))

    def _forget(self) -> None:
        """Drop audio that no later sequence needs, or that is beyond what is kept, but none unsent."""
        needed = min(self._sent, max(self._cut, self._sent - self._keep))
        if (surplus := needed - self._base) > 0:
            del self._audio[: _BYTES * surplus]
            self._base = needed

    def resume(self, sizes: ChunkSizes | None = None) -> None:
        """Begin another sequence with the audio of the utterance that is not final yet; this one is lost.

        ``sizes`` are those of the server that it goes to, where it is another one. What the partials showed
        may change. UserError when the utterance is longer than what is kept.
        """
        if self._base > self._cut:
            seconds = self._keep / self.sizes.sample_rate
            raise UserError(
                f"the stream was lost within an utterance longer than the {seconds:g} s that are kept: "
                "open another stream, and let end-points cut utterances"
            )
        self.sizes = sizes or self.sizes
        self._begin()


def _word(data: dict[str, Any], later: int) -> Word:
    return Word(**{**data, "start_ms": data["start_ms"] + later, "end_ms": data["end_ms"] + later})


class Recovery:
    """The policy of resumption: which failures are resumed, and for how long (s on the caller's clock).

    A first request that fails is the caller's to know at once. Later the server or the way to it is gone, or
    has forgotten the stream: that is resumed. Audio that a server refuses twice is refused.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._begun = False  # something was answered
        self._reached = -1  # the furthest sample that was answered, or that failed
        self._deadline = math.inf
        self._attempts = 0

    def answered(self, request: Request) -> None:
        """Note an answer; one beyond the last failure ends the recovery from it."""
        self._begun = True
        if request.position >= self._reached:
            self._reached, self._deadline, self._attempts = request.position, math.inf, 0

    def wait(self, error: ServerError, request: Request, now: float) -> float:
        """Seconds to wait before the stream is resumed; raises ``error`` when it is not to be."""
        again = self._deadline < math.inf
        self._deadline = min(self._deadline, now + self.seconds)
        refused = isinstance(error, RequestRefused) and again
        self._reached = max(self._reached, request.position)
        if not self._begun or refused or now >= self._deadline:
            raise error
        self._attempts += 1
        return _WAITS[min(self._attempts, len(_WAITS)) - 1]
