"""Films decoded ahead of the model, in worker processes: how many, what they hand over, how their failures read.

Workers start anew with every pass over the data. Kept alive they would go on with the collator of the first epoch, and
the passes would draw other random numbers than they do without workers.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, dataloader
from tqdm import tqdm

from rrg.data.parallel import cores
from rrg.errors import DataError, RRGError, UsageError
from rrg.feed.batch import Studies

# Forked, a worker has the studies and the tokenizer at once; macOS and Windows cannot fork safely, and pickle them.
CONTEXT = "fork" if sys.platform == "linux" else None
_parent = 0  # the process whose forks are workers, while `workers_quiet` holds


def workers_for(device: torch.device, given: int | None = None) -> int:
    """How many processes decode films. given: None for one a core, to 8, beside a GPU, and none on a CPU, where they
    would only take the cores from the model.

    The processes of a launcher share the cores. Raises UsageError for a negative number.
    """
    if given is not None and given < 0:
        raise UsageError(f"workers={given}: give 0 or more workers")
    if given is not None or device.type == "cpu":
        return given or 0
    return min(8, max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def batches(
    studies: Studies,
    size: int,
    collate: Callable[..., Any],
    what: str,
    *,
    device: torch.device,
    workers: int | None = None,
) -> Iterator[Any]:
    """The studies in order, `size` at a time, each collated. what: for the progress bar.

    Raises DataError for a film that cannot be read.
    """
    count = workers_for(device, workers)
    loader = DataLoader(
        studies,
        batch_size=size,
        collate_fn=collate,
        num_workers=count,
        multiprocessing_context=CONTEXT if count else None,
        pin_memory=device.type == "cuda",
    )
    with workers_quiet():
        yield from tqdm(loader, desc=what, unit="batch", leave=False, disable=None)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch where the model is, its films as floats in [0, 1]: the numbers that `read_film` gives, bit by bit."""
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    pixels = moved["pixel_values"]
    if pixels.dtype == torch.uint8:
        # A tensor on the device: by a number a GPU multiplies with its rounded inverse instead.
        moved["pixel_values"] = pixels / torch.full((), 255.0, dtype=torch.float32, device=device)
    return moved


@contextmanager
def workers_quiet() -> Iterator[None]:
    """What fails in a worker is one error, as it reads without workers; Ctrl-C ends them through this process alone.

    torch hands over an exception as the text of its traceback, at whose end the message stands.
    """
    global _parent
    before, _parent = _parent, os.getpid()
    main = threading.current_thread() is threading.main_thread()
    own = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if own:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    except DataError as error:
        if "in DataLoader worker process" not in error.message:
            raise
        raise DataError(error.message.rpartition("rrg.errors.DataError: ")[2].rstrip()) from None
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise RRGError(
            f"a process that decodes films has ended: {str(error).partition('. ')[0]}; where memory or /dev/shm is "
            "short, give fewer --workers, or --workers 0"
        ) from error
    finally:
        if own:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        _parent = before


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raises KeyboardInterrupt, but not while workers start: Python drops it at a fork, and torch stumbles over an
    iterator that is half made."""
    if os.getpid() != _parent:  # a worker, before it ignores the signal
        return
    while frame is not None:
        if frame.f_code.co_filename == dataloader.__file__ and frame.f_code.co_name == "__init__":
            again = threading.Timer(0.1, os.kill, (os.getpid(), number))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _begin_worker() -> None:
    global _parent
    parent, _parent = _parent, 0
    if parent:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.excepthook = lambda *_: None  # what the thread that hands films over says of a parent that has gone
        threading.Thread(target=_end_with, args=[parent], daemon=True).start()


def _end_with(parent: int) -> None:
    """torch's own watch notes its parent too late to see one killed while the worker began."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_worker)
