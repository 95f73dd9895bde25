"""What a selective scan cannot do without: its exponentials, and its bytes once to the processor and once back.

Each is measured in the run whose rows it stands beside. They can overlap, so the greater alone is a bound.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

Call = Callable[[], object]
# Each need, by the ways to meet it: of the ways the quickest counts, of the needs the slowest.
CPU_FLOOR = (("exponentials, torch", "exponentials, compiled"), ("bytes",))
GPU_FLOOR = (("exponentials, torch",), ("bytes",))
BLOCK = 2048  # numbers that stay in the nearest cache, and their exponentials


def floor_rows(tensors: dict[str, Tensor], grad: bool) -> dict[str, Call]:
    """The rows of a scan's floor.

    Exponentials: exp(ΔA) for each channel, step and state, and the softplus's for each channel and step; kept, they
    serve the backward pass too. Bytes: u and Δ are read and y is written, for the gradients ∂y is read and those of u
    and Δ are written; B and C are small beside them.
    """
    u, delta = tensors["u"].detach(), tensors["delta"].detach()
    count = u.numel() * (tensors["A"].shape[1] + 1)
    numbers, found = (torch.rand(count, device=u.device, dtype=u.dtype) for _ in range(2))
    y, of_u, of_delta = (torch.empty_like(u) for _ in range(3))

    def move() -> None:
        torch.add(u, delta, out=y)
        if grad:
            of_u.copy_(y)
            of_delta.zero_()

    rows: dict[str, Call] = {"exponentials, torch": lambda: torch.exp(numbers, out=found), "bytes": move}
    if u.device.type == "cpu":
        rows["exponentials, compiled"] = exponentials(count)[0]
    return rows


def exponentials(count: int) -> tuple[Call, Tensor]:
    """Take so many by the kernels' own exponential, shared out among torch's threads, over a block that stays in the
    nearest cache; and what the last turn of the first thread gave.
    """
    from rrg.ops.threads import share_out

    threads = torch.get_num_threads()
    numbers, found = torch.linspace(-1, 1, BLOCK), torch.empty(threads, BLOCK)
    counts, work = np.zeros(6, np.int64), _work()

    def take() -> None:
        counts[:] = 0, 0, count // BLOCK, BLOCK, numbers.data_ptr(), found.data_ptr()
        share_out(work.address, counts.ctypes.data, threads, [counts, numbers, found])

    return take, found[0]


@cache
def _work() -> Any:
    import numba

    from rrg.ops.compiled import CONTRACT, array_at, c_function, compiled, exp, taken

    job_of = np.dtype([(name, np.int64) for name in ("next", "thread", "turns", "block", "numbers", "found")])

    @compiled(**CONTRACT)
    def once(numbers: Any, found: Any, scale: Any) -> None:
        for place in range(len(numbers)):
            found[place] = exp(numbers[place] * scale)

    def work(jobs: Any) -> None:
        job = numba.carray(jobs, 1)[0]
        numbers = array_at(job.numbers, job.block, np.float32)
        found = array_at(job.found + 4 * job.block * taken(jobs, 1), job.block, np.float32)
        turn = taken(jobs, 0)
        while turn < job.turns:  # by another number each, as A is another in each channel: none repeats the one before
            once(numbers, found, np.float32(turn))
            turn = taken(jobs, 0)

    return c_function(work, job_of)
