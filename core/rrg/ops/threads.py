"""Compiled work shared out among threads: torch's own where they can be had, since they wait busily after each of its
operations and would hold up any others; else those of a pool.
"""

import ctypes
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch

_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def share_out(work: int, job: int, threads: int, memory: Sequence[object]) -> None:
    """work(job), addresses of a C function and of what it is given, on so many threads; this is one of them.

    memory: what those addresses lead to, so that it outlasts a thread that an interrupt here leaves at work.
    """
    openmp = _openmp() if threads > 1 else None
    if openmp is not None:
        openmp.GOMP_parallel(work, job, threads, 0)
        return
    others = [_pool().submit(_run, work, job, memory) for _ in range(threads - 1)]
    _run(work, job, memory)
    for other in others:
        if not other.cancel():
            other.result()


def _run(work: int, job: int, memory: Sequence[object]) -> None:
    _WORK(work)(job)


@cache
def _openmp() -> ctypes.CDLL | None:
    """GNU OpenMP as torch has loaded it; None where torch runs on another. Its threads do not survive a fork."""
    folder = Path(torch.__file__).parent
    for path in (*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")):
        try:
            library = ctypes.CDLL(str(path), mode=os.RTLD_NOLOAD)
            library.GOMP_parallel.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
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
