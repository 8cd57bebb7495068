"""Ordered parallel map with bounded memory, over local processes or a Ray cluster.

``Pool.imap`` of either library reads its whole input at once; a corpus has 620,000 lines. Here at most a few
tasks a worker are in flight, results come in order, and the caller's generator is read only as needed.
"""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from ko_asr.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")
OrderedMap = Callable[..., Iterator[Any]]  # run(function, tasks), which yields function(task) in order
TASKS_IN_FLIGHT = 3  # a worker: one at work, one waiting, one being handed over


@contextlib.contextmanager
def ordered_map(jobs: int, ray_address: str = "") -> Iterator[OrderedMap]:
    """Open a pool and give ``run(function, tasks)``, which yields ``function(task)`` in order.

    ``jobs`` processes here (1 runs in this process), or on the Ray cluster at ``ray_address`` ("auto" for the
    one this machine belongs to, "local" to start one here); there the workers need this project installed
    and the same file system. Raises UserError when Ray is missing or a worker dies.
    """
    if ray_address:
        with _ray_pool(jobs, ray_address) as pool:
            yield lambda function, tasks: _windowed(
                lambda task: pool.apply_async(function, (task,)).get, tasks, TASKS_IN_FLIGHT * jobs
            )
    elif jobs == 1:
        yield map
    else:
        pool = _started(jobs)
        try:
            yield lambda function, tasks: _windowed(
                lambda task: pool.submit(function, task).result, tasks, TASKS_IN_FLIGHT * jobs
            )
        except concurrent.futures.process.BrokenProcessPool as error:
            raise UserError(
                "a worker process died, most likely for lack of memory; "
                "run the same command again to go on, with fewer --jobs"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _windowed(
    submit: Callable[[Task], Callable[[], Result]], tasks: Iterable[Task], window: int
) -> Iterator[Result]:
    waiting: collections.deque[Callable[[], Result]] = collections.deque()
    for task in tasks:
        waiting.append(submit(task))
        if len(waiting) >= window:
            yield waiting.popleft()()
    while waiting:
        yield waiting.popleft()()


def _started(jobs: int) -> concurrent.futures.ProcessPoolExecutor:
    """Start a pool whose workers run already. Call it before threads, locks and databases are opened.

    On Linux they are forked, which costs nothing; importing numpy and compiling rules anew costs a worker
    0.3 s. That is safe here, while this process has no thread of its own.
    """
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    pool = concurrent.futures.ProcessPoolExecutor(jobs, context, initializer=_follow_the_parent)
    with warnings.catch_warnings():  # Python 3.12 counts the linear algebra library's idle threads
        warnings.simplefilter("ignore", DeprecationWarning)
        pool.submit(os.getpid).result()
    return pool


def _follow_the_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it: workers of a killed parent would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _ray_pool(jobs: int, address: str) -> Iterator[Any]:
    try:
        import ray
        from ray.util.multiprocessing import Pool
    except ImportError as error:
        raise UserError(
            "--ray needs Ray, in an environment of its own: run make setup-ray (or pip install -r "
            "requirements-ray.txt in another), then this command with .ray/bin/python"
        ) from error
    try:
        ray.init(address=None if address == "local" else address, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster answers at {address}: start one with 'ray start --head'") from error
    pool = Pool(processes=jobs)
    try:
        yield pool
    finally:
        pool.terminate()
        ray.shutdown()
