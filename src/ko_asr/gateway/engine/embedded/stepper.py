"""One thread of the streaming model, and what it tells the event loop of each stream."""

import asyncio
import logging
import queue
import threading
from collections.abc import AsyncIterator, Callable

import numpy as np

from ko_asr.client.connection import ServerError
from ko_asr.client.protocol import Fresh
from ko_asr.errors import UserError
from ko_asr.recognition.streaming import Session, StreamingRecognizer
from ko_asr.runtime import answers
from ko_asr.runtime.log_mel import LOUDEST
from ko_asr.runtime.results import Decoder, Result
from ko_asr.runtime.windows import checked

LOG = logging.getLogger("ko_asr.gateway")
_PENDING_SECONDS = 5.0  # of audio that is not computed yet, after which `send` waits
_Turn = tuple[
    "EmbeddedStream", list[Result], int, bool
]  # with the samples computed so far, and whether it ended


class Stepper:
    """One thread, which computes a chunk of all its streams that have one ready, again and again."""

    def __init__(self, recognizer: StreamingRecognizer) -> None:
        self._recognizer = recognizer
        self.open_now = 0  # streams with a place; the event loop's
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._streams: dict[Session, EmbeddedStream] = {}  # the thread's
        self._thread = threading.Thread(target=self._work, name="streams", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what is open fails."""
        self._inbox.put(None)
        self._thread.join()

    def begin(self, stream: "EmbeddedStream", decoder: Decoder) -> None:
        """Let the thread open ``stream``."""
        self.open_now += 1
        self._inbox.put(lambda: self._begin(stream, decoder))

    def feed(self, stream: "EmbeddedStream", samples: np.ndarray) -> None:
        """Let the thread take ``samples``."""

        def take() -> None:
            if stream.session is not None:
                stream.session.feed(samples)

        self._inbox.put(take)

    def end(self, stream: "EmbeddedStream") -> None:
        """Let the thread end the audio."""

        def end() -> None:
            if stream.session is not None:
                stream.session.end()

        self._inbox.put(end)

    def forget(self, stream: "EmbeddedStream") -> None:
        """Let the thread give the stream up."""
        self._inbox.put(lambda: self._drop(stream))

    def _begin(self, stream: "EmbeddedStream", decoder: Decoder) -> None:
        session = self._recognizer.open(decoder)
        self._streams[session], stream.session = stream, session

    def _drop(self, stream: "EmbeddedStream") -> None:
        if stream.session is not None:
            self._streams.pop(stream.session, None)
            stream.session.close()
            stream.session = None

    def _work(self) -> None:
        busy = False
        while True:
            try:
                if not self._take_messages(wait=not busy):
                    return
                busy = bool(turns := self._recognizer.step())
                self._deliver([self._turn(session, results) for session, results in turns])
            except Exception:  # ONNX Runtime raises many kinds
                LOG.exception("the streaming model")
                self._fail_all()

    def _take_messages(self, wait: bool) -> bool:
        """Do what was asked for; False at the end."""
        try:
            while True:
                message = self._inbox.get(block=wait)
                if message is None:
                    self._fail_all()
                    return False
                message()
                wait = False
        except queue.Empty:
            return True

    def _turn(self, session: Session, results: list[Result]) -> _Turn:
        stream, windows = self._streams[session], session.windows
        over = windows.ended and not windows.ready
        if over:  # a partial before its final holds nothing new
            results = [result for result in results if result.is_final]
            self._drop(stream)
        return stream, results, windows.taken * self._recognizer.contract.shift_samples, over

    def _deliver(self, turns: list[_Turn]) -> None:
        loops = {turn[0].loop for turn in turns}
        for loop in loops:
            own = [turn for turn in turns if turn[0].loop is loop]
            loop.call_soon_threadsafe(_take_turns, own)

    def _fail_all(self) -> None:
        for stream in list(self._streams.values()):
            self._drop(stream)
            stream.loop.call_soon_threadsafe(stream.fail, ServerError("INTERNAL", answers.OURS))


def _take_turns(turns: list[_Turn]) -> None:
    for stream, results, computed, over in turns:
        stream.take(results, computed, over)


class EmbeddedStream:
    """A `LiveStream`. ``session`` belongs to its stepper's thread, the rest to the event loop ``loop``."""

    def __init__(self, stepper: "Stepper", decoder: Decoder, sample_rate: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.session: Session | None = None
        self._stepper, self._limit = stepper, int(_PENDING_SECONDS * sample_rate)
        self._sent = self._computed = 0  # samples
        self._room = asyncio.Event()
        self._fresh = Fresh()
        self._results: asyncio.Queue[Result | None] = asyncio.Queue()
        self._ended = self._over = False
        self._error: ServerError | None = None
        stepper.begin(self, decoder)

    async def send(self, samples: np.ndarray) -> None:
        """Take float32 samples [n]; waits while more than five seconds are not computed."""
        if self._ended or (self._over and self._error is None):
            raise UserError("the stream has ended: open another one")
        samples = checked(samples)
        if np.abs(samples).max(initial=0.0) > LOUDEST:
            raise UserError("audio holds values far outside -1..1; scale the samples to -1..1")
        self._check()
        self._sent += len(samples)
        self._stepper.feed(self, samples.copy())
        while self._sent - self._computed > self._limit and not self._over:
            self._room.clear()
            await self._room.wait()
        self._check()

    async def finish(self) -> None:
        """End the audio; the iteration ends with the last result."""
        if not self._ended and not self._over:
            self._stepper.end(self)
        self._ended = True

    async def __aiter__(self) -> AsyncIterator[Result]:
        while (result := await self._results.get()) is not None:
            yield result
        self._results.put_nowait(None)  # a second iteration ends as well
        self._check()

    async def close(self) -> None:
        """Give up what is not final, and free the place."""
        self._stepper.forget(self)
        self._finish()

    def take(self, results: list[Result], computed: int, over: bool) -> None:
        """Take what a chunk brought; ``computed`` samples are done."""
        self._computed = computed
        self._room.set()
        for result in self._fresh.of(results):
            self._results.put_nowait(result)
        if over:
            self._finish()

    def fail(self, error: ServerError) -> None:
        """End with ``error``."""
        self._error = self._error or error
        self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._stepper.open_now -= 1
            self._results.put_nowait(None)
            self._room.set()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
