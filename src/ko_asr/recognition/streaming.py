"""Live speech through a cache-aware model: sessions that take audio of any size, batched together.

    recognizer = StreamingRecognizer.load("model.nemo", look_ahead=6)
    with recognizer.open() as session:
        for packet in microphone:
            for result in session.push(packet):  # float32, 16 kHz, mono, any number of samples
                print(result.text)
        results = session.flush()

The frames equal the full forward pass of the same model on the whole audio, whatever the packets. Many
sessions: `Session.feed` and `Session.end` take audio without computing, `StreamingRecognizer.step` computes
one chunk of as many sessions as are ready. An exported folder needs neither torch nor NeMo. A recognizer and
its sessions belong to one thread.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ko_asr.errors import UserError
from ko_asr.export.streaming.backend import Backend, OnnxBackend, TorchBackend, front_end_of
from ko_asr.finishing.options import FinishOptions
from ko_asr.runtime.ctc_decoder import DecoderSettings
from ko_asr.runtime.decoder import make_decoder
from ko_asr.runtime.endpoint import EndpointRules
from ko_asr.runtime.log_mel import LogMel
from ko_asr.runtime.results import Decoder, Result
from ko_asr.runtime.windows import StreamingWindows, checked

BACKENDS = ("onnx", "torch")


class FrameRecorder:
    """A decoder that keeps the best tokens of every frame and makes no results."""

    def __init__(self) -> None:
        self._ids: list[np.ndarray] = []
        self._log_probs: list[np.ndarray] = []

    def accept(self, ids: np.ndarray, log_probs: np.ndarray) -> list[Result]:
        """Keep ``ids`` int32 and ``log_probs`` float32 [T, K]."""
        self._ids.append(ids.copy())
        self._log_probs.append(log_probs.copy())
        return []

    def finish(self) -> list[Result]:
        """End the frames; there is nothing to return."""
        return []

    def frames(self) -> tuple[np.ndarray, np.ndarray]:
        """Ids and log-probabilities of all frames, [frames, K]."""
        if not self._ids:
            return np.empty((0, 0), np.int32), np.empty((0, 0), np.float32)
        return np.concatenate(self._ids), np.concatenate(self._log_probs)


class _Batch:
    """The state of sessions that were computed together."""

    def __init__(self, state: Any, size: int) -> None:
        self.state, self.size = state, size
        self.rows: dict[Session, int] = {}


class Session:
    """One stream. Made by `StreamingRecognizer.open`; a context manager that closes it."""

    def __init__(self, recognizer: "StreamingRecognizer", decoder: Decoder) -> None:
        self.decoder = decoder
        self._recognizer = recognizer
        self.windows = StreamingWindows(recognizer.contract, recognizer.log_mel)
        self._finished = False
        self._closed = ""  # why
        self._batch: _Batch | None = None
        self.last_active = recognizer.clock()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """True when no more audio is taken."""
        return bool(self._closed)

    def feed(self, samples: np.ndarray) -> None:
        """Take float ``samples`` [n] in -1..1, n >= 0, and compute nothing yet.

        UserError, and nothing is taken, for samples that are NaN or infinite, no floats or not one channel,
        and after `end`, `close` or the time to live.
        """
        self._check_open()
        self.windows.feed(checked(samples))
        self.last_active = self._recognizer.clock()

    def end(self) -> None:
        """End the audio, so that the rest becomes ready. Once is enough. UserError after `close`."""
        if self._closed:
            self._check_open()
        self.windows.end()

    def push(self, samples: np.ndarray) -> list[Result]:
        """Take samples as `feed` does, and return the results that follow from them."""
        self.feed(samples)
        return self._recognizer.run(self)

    def flush(self) -> list[Result]:
        """End the audio and return the last results. Afterwards the session is closed."""
        self.end()
        results = self._recognizer.run(self)
        self.close()
        return results

    def close(self, reason: str = "closed") -> None:
        """Forget the stream. Closing twice is allowed."""
        self._closed = self._closed or reason
        self._recognizer.forget(self)

    def _check_open(self) -> None:
        if self._closed or self.windows.ended:
            reason = self._closed or "flushed"
            raise UserError(f"this session takes no audio, it is {reason}: open another one")

    @property
    def ready(self) -> bool:
        """True when a chunk, or the end of the stream, can be computed."""
        if self._closed or self._finished:
            return False
        return self.windows.ended or self.windows.ready

    def take(self, ids: np.ndarray, log_probs: np.ndarray, batch: _Batch) -> list[Result]:
        """Take a chunk's valid frames, [T, K], and where the state is now."""
        self._batch = batch
        return self.decoder.accept(ids, log_probs) if len(ids) else []

    def finish(self) -> list[Result]:
        """The decoder's last results."""
        self._finished = True
        return self.decoder.finish()


class StreamingRecognizer:
    """A cache-aware model with one look-ahead, and the sessions that it serves."""

    def __init__(
        self,
        backend: Backend,
        log_mel: LogMel,
        max_batch: int = 32,
        time_to_live: float | None = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``time_to_live``: seconds without audio after which a session is closed (None: never)."""
        if max_batch < 1:
            raise UserError(f"max_batch must be at least 1, not {max_batch}")
        self.backend, self.log_mel, self.contract = backend, log_mel, backend.contract
        self.max_batch, self.time_to_live, self.clock = max_batch, time_to_live, clock
        self.vocabulary = self.contract.text_vocabulary()
        self.sessions: dict[Session, None] = {}  # in order of their last turn

    @classmethod
    def load(
        cls,
        path: str | Path,
        look_ahead: int | None = None,
        backend: str | None = None,
        threads: int = 1,
        **options: Any,
    ) -> "StreamingRecognizer":
        """Load an exported folder (ONNX Runtime) or a .nemo (torch, or exported on the way with ``onnx``).

        ``look_ahead`` is in encoder frames, one of those the model was trained with; without it the model's
        first, or the exported one. ``options`` go to the constructor. UserError for everything that the user
        can mend.
        """
        path = Path(path)
        if backend not in (None, *BACKENDS):
            raise UserError(f"no backend {backend!r}: one of {', '.join(BACKENDS)}")
        if path.is_dir():
            return cls._load_folder(path, look_ahead, backend, threads, options)
        if backend == "onnx":
            return cls._load_exported(path, look_ahead, threads, options)
        from ko_asr.export.streaming.graph import streaming_graph
        from ko_asr.models.front_end import log_mel_of
        from ko_asr.models.nemo_file import load_exportable_model

        model = load_exportable_model(path)
        graph, contract = streaming_graph(model, path, look_ahead)
        return cls(TorchBackend(graph, contract, threads), log_mel_of(model), **options)

    @classmethod
    def _load_exported(
        cls, nemo: Path, look_ahead: int | None, threads: int, options: dict[str, Any]
    ) -> "StreamingRecognizer":
        """Export a .nemo into a folder that is needed no longer than to load it."""
        from ko_asr.export.streaming.folder import export_look_ahead

        with tempfile.TemporaryDirectory() as folder:
            export_look_ahead(nemo, folder, look_ahead)
            return cls._load_folder(Path(folder), None, "onnx", threads, options)

    @classmethod
    def _load_folder(
        cls, folder: Path, look_ahead: int | None, backend: str | None, threads: int, options: dict[str, Any]
    ) -> "StreamingRecognizer":
        if backend == "torch":
            raise UserError(
                f"{folder} is an exported model, which ONNX Runtime runs: give the .nemo for torch"
            )
        loaded = OnnxBackend.load(folder, threads)
        if look_ahead not in (None, loaded.contract.look_ahead):
            raise UserError(
                f"{folder} was exported with a look-ahead of {loaded.contract.look_ahead} encoder frames, "
                f"not {look_ahead}: export it again with that one"
            )
        return cls(loaded, front_end_of(folder), **options)

    def open(
        self,
        decoder: Decoder | None = None,
        endpointing: EndpointRules | None = None,
        sample_rate: int | None = None,
        offset_ms: float = 0.0,
        written: FinishOptions | None = None,
    ) -> Session:
        """Begin a stream. Without ``decoder`` a greedy one, with these end-point rules (None: one utterance).

        Its results have the ``written`` form where that is asked for. UserError for options of it that cannot
        be, and when the audio has another rate than the model.
        """
        if sample_rate not in (None, self.contract.sample_rate):
            raise UserError(
                f"the model hears {self.contract.sample_rate} Hz, not {sample_rate} Hz: resample it first"
            )
        self.expire()
        if decoder is None:
            frame_ms = 1000.0 * self.contract.frame_seconds
            settings = DecoderSettings(
                self.vocabulary, self.contract.blank_id, frame_ms, endpointing, offset_ms
            )
            decoder = make_decoder(settings, written=written)
        session = Session(self, decoder)
        self.sessions[session] = None
        return session

    def step(self, max_batch: int | None = None) -> list[tuple[Session, list[Result]]]:
        """Compute one chunk of every ready session, at most ``max_batch`` (the recognizer's, if None).

        Those that waited longest come first. Returns the sessions that had a turn, with their results; an
        ended one that has nothing left gets its last results. An empty list: nobody is ready.
        """
        self.expire()
        limit = max_batch or self.max_batch
        turn = []
        for session in self.sessions:
            if session.ready:
                turn.append(session)
                if len(turn) == limit:
                    break
        return self._compute(turn)

    def run(self, session: Session) -> list[Result]:
        """Compute every ready chunk of one session."""
        results: list[Result] = []
        while session.ready:
            results += self._compute([session])[0][1]
        return results

    def expire(self) -> list[Session]:
        """Close the sessions that got no audio within the time to live; returns them."""
        if self.time_to_live is None:
            return []
        limit = self.clock() - self.time_to_live
        idle = [session for session in self.sessions if session.last_active < limit]
        for session in idle:
            session.close(f"closed after {self.time_to_live:g} s without audio")
        return idle

    def forget(self, session: Session) -> None:
        """Drop a session and its state."""
        self.sessions.pop(session, None)
        if session._batch is not None:
            self._leave(session._batch, [session])
            session._batch = None

    def _compute(self, turn: Sequence[Session]) -> list[tuple[Session, list[Result]]]:
        owing = [session for session in turn if session.windows.ready]
        results: dict[Session, list[Result]] = {session: [] for session in turn}
        if owing:
            # In the order of the last batch the state needs no copy.
            owing.sort(key=lambda session: session._batch.rows[session] if session._batch else -1)
            self._chunk(owing, results)
        for session in turn:
            if session.windows.ended and not session.windows.ready:
                results[session] += session.finish()
            if session in self.sessions:  # to the end of the queue
                self.sessions[session] = self.sessions.pop(session)
        return list(results.items())

    def _chunk(self, owing: Sequence[Session], results: dict[Session, list[Result]]) -> None:
        contract = self.contract
        features = np.empty((len(owing), contract.mels, contract.window_frames), np.float32)
        state = self._state(owing)
        lengths = [session.windows.take(row) for session, row in zip(owing, features, strict=True)]
        chunk, after = self.backend.step(features, np.array(lengths, np.int64)[:, None], state)
        batch = _Batch(after, len(owing))
        batch.rows = {session: row for row, session in enumerate(owing)}
        for row, session in enumerate(owing):
            count = int(chunk.counts[row])
            results[session] += session.take(chunk.ids[row, :count], chunk.log_probs[row, :count], batch)

    def _state(self, owing: Sequence[Session]) -> Any:
        """The state of these sessions as one batch: the old one itself where it is the same batch."""
        old = owing[0]._batch
        if old is not None and list(old.rows) == list(owing) and old.size == len(owing):
            return old.state
        fresh = self.backend.zeros(1)
        rows = [(s._batch.state, s._batch.rows[s]) if s._batch else (fresh, 0) for s in owing]
        state = self.backend.gather(rows)
        left: dict[int, tuple[_Batch, list[Session]]] = {}
        for session in owing:
            if session._batch is not None:
                left.setdefault(id(session._batch), (session._batch, []))[1].append(session)
        for batch, leaving in left.values():
            self._leave(batch, leaving)
        return state

    def _leave(self, batch: _Batch, leaving: Sequence[Session]) -> None:
        """Take sessions out of a batch; one that is mostly empty is cut down, so that memory is bounded."""
        for session in leaving:
            batch.rows.pop(session, None)
        staying = list(batch.rows)
        if staying and 2 * len(staying) <= batch.size:
            batch.state = self.backend.gather([(batch.state, batch.rows[session]) for session in staying])
            batch.size = len(staying)
            batch.rows = {session: row for row, session in enumerate(staying)}
