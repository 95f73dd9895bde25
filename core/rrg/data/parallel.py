"""One function over many jobs in worker processes, however many the jobs are."""

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def cores() -> int:
    """Cores that this process may use, which a cluster's job has fewer of than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel(
    function: Callable[[T], R], jobs: Iterable[T], workers: int, lock: int | None = None
) -> Generator[R, None, None]:
    """The results in the order of the jobs, which are taken as they are needed: two a worker wait at most.

    In processes: a film's Python part, in which threads wait for one another, takes a third of a small film's time.
    They end with this process, even where it is killed, hold no `lock` of its, and leave Ctrl-C to it.
    """
    if workers == 1:
        yield from map(function, jobs)
        return
    # Spawned children import the caller's script again, which fails for one on standard input or without a main guard;
    # forked ones are safe as they use nothing that a threaded parent may hold locked (no torch).
    forked = sys.platform == "linux"
    context = multiprocessing.get_context("fork" if forked else None)
    pool = ProcessPoolExecutor(workers, context, _begin, (lock if forked else None,))
    waiting: deque[Future[R]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(function, job))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(lock: int | None) -> None:
    """What a worker does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what is shared with the parent stays shared: nothing walks over it
    if lock is not None:
        os.close(lock)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
