"""Recordings through the offline model: threads that take what waits together, where lengths allow it."""

import logging
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from ko_asr.client.connection import RequestRefused, ServerError
from ko_asr.client.offline import Transcription
from ko_asr.errors import UserError
from ko_asr.gateway.engine.embedded.models import Recordings
from ko_asr.runtime import answers, tensors
from ko_asr.runtime.keywords import Keyword, parse_keywords

LOG = logging.getLogger("ko_asr.gateway")
_OUTPUTS = (tensors.TOKEN_IDS, tensors.TOKEN_LOG_PROBS, tensors.ENCODED_LENGTH)


@dataclass(eq=False)
class _Job:
    samples: np.ndarray
    bucket: int  # log-mel frames
    keywords: Sequence[Keyword]
    answer: Future[Transcription] = field(default_factory=Future)


class Files:
    """The offline model, asked from any thread."""

    def __init__(self, model: Recordings, threads: int) -> None:
        """Begin ``threads`` threads."""
        self._model, self._count = model, threads
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        names = (f"recordings-{number}" for number in range(threads))
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        for thread in self._threads:
            thread.start()

    def submit(self, samples: np.ndarray, keywords: Sequence[str] = ()) -> Future[Transcription]:
        """Transcribe float32 [n] with words. The future raises ServerError; RequestRefused at once."""
        contract = self._model.contract
        try:
            job = _Job(samples, contract.bucket(len(samples) // contract.hop), parse_keywords(keywords))
        except UserError as error:
            raise _refused(error) from error
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return job.answer

    def close(self) -> None:
        """Answer what is being computed, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (jobs := self._take()) is not None:
            running = [job for job in jobs if job.answer.set_running_or_notify_cancel()]
            try:
                self._answer(running)
            except Exception as error:  # ONNX Runtime raises many kinds
                LOG.exception("the offline model")
                for job in running:
                    if not job.answer.done():
                        failure = ServerError("INTERNAL", answers.OURS)
                        failure.__cause__ = error
                        job.answer.set_exception(failure)

    def _take(self) -> list[_Job] | None:
        """Take the job that waits longest and this thread's share of those of its bucket; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            first = self._waiting[0]
            most = self._rows_of_a_run(first.bucket)
            jobs = [job for job in self._waiting if job.bucket == first.bucket][:most]
            for job in jobs:
                self._waiting.remove(job)
            return jobs

    def _rows_of_a_run(self, bucket: int) -> int:
        """No more frames than the longest recording has, and none that another thread could take."""
        contract = self._model.contract
        share = -(-len(self._waiting) // self._count)
        return max(1, min(share, contract.max_batch_size, max(contract.bucket_frames) // max(1, bucket)))

    def _answer(self, jobs: list[_Job]) -> None:
        taken, rows = [], []
        for job in jobs:
            try:
                rows.append(self._model.front_end(job.samples[None]))
            except UserError as error:
                job.answer.set_exception(_refused(error))
            else:
                taken.append(job)
        if not taken:
            return
        feed = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        outputs = self._model.session.run(list(_OUTPUTS), feed)
        for job, ids, log_probs, length in zip(taken, *outputs, strict=True):
            frames = max(0, int(length[0]))  # silence has a negative length
            try:
                heard = self._model.decoder(ids[:frames], log_probs[:frames], job.keywords)
            except UserError as error:
                job.answer.set_exception(_refused(error))
            else:
                words = tuple(word.to_json() for word in heard.words())
                job.answer.set_result(
                    Transcription(heard.text(), float(np.float32(heard.confidence())), words)
                )


def _refused(error: UserError) -> RequestRefused:
    return RequestRefused("INVALID_ARGUMENT", str(error))
