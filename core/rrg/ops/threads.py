"""Work shared out among threads: torch's own where they can be had, since they wait busily after each of its operations
and would hold up any others; else those of a pool.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

Run = Callable[[int, int], None]


def share_out(run: Run, tasks: int, threads: int) -> None:
    """run(first, last) over tasks 0 to `tasks`, in pieces, on so many threads, of which this is one.

    run: releases the interpreter's lock in its long part. Twice as many pieces as threads: one that another program
    holds up leaves its pieces to the others.
    """
    if threads < 2 or tasks < 2:
        run(0, tasks)
        return
    pieces = min(2 * threads, tasks)
    bounds = [tasks * i // pieces for i in range(pieces + 1)]
    following = pairwise(bounds)  # next() on it is one step under the interpreter's lock
    failures: list[BaseException] = []

    def work_off(_: Any = None) -> None:
        try:
            for first, last in following:
                run(first, last)
        except BaseException as error:  # one that left a thread of torch would be lost
            failures.append(error)

    openmp = _openmp()
    if openmp is not None:
        openmp.GOMP_parallel(_TEAM(work_off), None, threads, 0)
    else:
        others = [_pool().submit(work_off) for _ in range(threads - 1)]
        work_off()
        for other in others:
            if not other.cancel():
                other.result()
    if failures:
        raise failures[0]


_TEAM = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@cache
def _openmp() -> ctypes.CDLL | None:
    """GNU OpenMP as torch has loaded it; None where torch runs on another. Its threads do not survive a fork."""
    folder = Path(torch.__file__).parent
    for path in (*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")):
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
            library.GOMP_parallel.argtypes = _TEAM, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
            library.GOMP_parallel.restype = None
        except (OSError, AttributeError):
            continue
        return library
    return None


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="rrg")


def _in_child() -> None:
    """A child has none of the threads: a new pool, and none of torch's."""
    global _openmp
    _openmp = cache(lambda: None)
    _pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
