"""A guard for code that may never end, such as a regular expression that backtracks."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def hang_guard(seconds: int = 60) -> Iterator[None]:
    """Raises TimeoutError in what takes longer.

    Give it so large an input that what grows linearly takes seconds, and what grows quadratically hours: then
    the limit says nothing of speed.
    """

    def stop(*_: Any) -> None:
        raise TimeoutError(f"it still runs after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
