"""The gated fusion on the CPU: all that it does beside its products in one pass over memory, forward and backward, as
the custom ops `rrg::gated_fusion_cpu` and `..._backward`. Importing it imports numba.
"""

from array import array
from functools import cache
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from rrg.ops.compiled import CONTRACT, ONE, ZERO, Array, array_at, c_function, compiled, exp, taken
from rrg.ops.direct import plain
from rrg.ops.threads import share_out

# What the C function is given: a counter of the pieces taken, tasks, and tasks of a piece; sizes; addresses, 0 where
# there is none: of upstream, in the forward pass; of fused, where the gate is not kept.
SIZES = "next", "tasks", "piece", "batch", "text", "host"
TENSORS = "gate", "half", "hidden", "expert", "fused", "upstream", "of_hidden", "of_expert", "of_sum", "of_half"
JOB = np.dtype([(name, np.int64) for name in SIZES + TENSORS])
NEXT = 0  # place of the counter
WIDTH = 128  # channels of a backward task
PIECES = 4  # for each thread: one that another program holds up leaves its pieces to the others
GRAIN = 2**15  # numbers that are worth a thread


@compiled(**CONTRACT)
def _forward(
    gate: Array, half: Array, hidden: Array, expert: Array, fused: Array, keep: bool, first: int, last: int
) -> None:
    """LEAD's eq. 1 and 2 for rows of text `first` to `last`: h' in place of the product, or g there and h' in fused."""
    text = len(gate) // len(half)
    for row in range(first, last):
        b = row // text
        if keep:
            for d in range(gate.shape[1]):
                g = ONE / (ONE + exp(-(gate[row, d] + half[b, d])))
                gate[row, d] = g
                fused[row, d] = (ONE - g) * hidden[row, d] + g * expert[b, d]
        else:
            for d in range(gate.shape[1]):
                g = ONE / (ONE + exp(-(gate[row, d] + half[b, d])))
                gate[row, d] = (ONE - g) * hidden[row, d] + g * expert[b, d]


@compiled(**CONTRACT)
def _backward(
    gate: Array, hidden: Array, expert: Array, upstream: Array,
    of_hidden: Array, of_expert: Array, of_sum: Array, of_half: Array, first: int, last: int,
) -> None:  # fmt: skip
    """Tasks `first` to `last`, of one study and at most WIDTH channels each: the gradients but for the products'."""
    host = gate.shape[1]
    text, blocks = len(gate) // len(expert), -(-host // WIDTH)
    for task in range(first, last):
        # Unsigned: a signed index may count from the end, which would be tested at each element.
        b, start = np.uint64(task // blocks), np.uint64(task % blocks * WIDTH)
        end = min(np.uint64(host), start + np.uint64(WIDTH))
        for d in range(start, end):
            of_expert[b, d] = ZERO
            of_half[b, d] = ZERO
        for row in range(b * np.uint64(text), (b + np.uint64(1)) * np.uint64(text)):
            for d in range(start, end):
                g, up = gate[row, d], upstream[row, d]
                of_hidden[row, d] = (ONE - g) * up
                of_expert[b, d] += g * up
                slope = (ONE - g) * g * (expert[b, d] - hidden[row, d]) * up
                of_sum[row, d] = slope
                of_half[b, d] += slope


@cache
def _work(dtype: np.dtype[Any]) -> Any:
    def work(jobs: Any) -> None:
        job = numba.carray(jobs, 1)[0]
        large, small = (job.batch * job.text, job.host), (job.batch, job.host)
        gate, hidden = array_at(job.gate, large, dtype), array_at(job.hidden, large, dtype)
        half, expert = array_at(job.half, small, dtype), array_at(job.expert, small, dtype)
        first = taken(jobs, NEXT) * job.piece
        while first < job.tasks:
            last = min(job.tasks, first + job.piece)
            if job.upstream:
                _backward(
                    gate, hidden, expert, array_at(job.upstream, large, dtype),
                    array_at(job.of_hidden, large, dtype), array_at(job.of_expert, small, dtype),
                    array_at(job.of_sum, large, dtype), array_at(job.of_half, small, dtype), first, last,
                )  # fmt: skip
            else:
                _forward(gate, half, hidden, expert, array_at(job.fused, large, dtype), job.fused != 0, first, last)
            first = taken(jobs, NEXT) * job.piece

    return c_function(work, JOB)


def _work_off(tasks: int, gate: Tensor, **others: Tensor | None) -> None:
    """Share the tasks out among threads. Tensors are named as in TENSORS."""
    tensors = {name: None if tensor is None else tensor.contiguous() for name, tensor in others.items()}
    tensors["gate"] = gate
    threads = max(min(torch.get_num_threads(), gate.numel() // GRAIN, tasks), 1)
    addresses = [0 if (tensor := tensors.get(name)) is None else tensor.data_ptr() for name in TENSORS]
    job = array("q", [0, tasks, max(tasks // (threads * PIECES), 1), *gate.shape, *addresses])
    work = _work(np.dtype(str(gate.dtype).removeprefix("torch.")))
    share_out(work.address, job.buffer_info()[0], threads, [job, *tensors.values()])


def _run(gate: Tensor, half: Tensor, hidden: Tensor, expert: Tensor, fused: Tensor | None) -> None:
    _work_off(len(gate) * gate.shape[1], gate, half=half, hidden=hidden, expert=expert, fused=fused)


def _run_back(upstream: Tensor, hidden: Tensor, expert: Tensor, gate: Tensor) -> list[Tensor]:
    of_hidden, of_sum = (torch.empty(gate.shape, dtype=gate.dtype) for _ in range(2))
    of_expert, of_half = (torch.empty(expert.shape, dtype=gate.dtype) for _ in range(2))
    made = {"of_hidden": of_hidden, "of_expert": of_expert, "of_sum": of_sum, "of_half": of_half}
    tasks = len(gate) * -(-gate.shape[2] // WIDTH)
    _work_off(tasks, gate, hidden=hidden, expert=expert, upstream=upstream, **made)
    return list(made.values())


_op = torch.library.custom_op("rrg::gated_fusion_cpu", _run, mutates_args=("gate", "fused"), device_types="cpu")
_op_back = torch.library.custom_op("rrg::gated_fusion_cpu_backward", _run_back, mutates_args=(), device_types="cpu")


@_op.register_fake
def _(gate: Tensor, half: Tensor, hidden: Tensor, expert: Tensor, fused: Tensor | None) -> None:
    return


@_op_back.register_fake
def _(upstream: Tensor, hidden: Tensor, expert: Tensor, gate: Tensor) -> list[Tensor]:
    return [gate.new_empty(like.shape) for like in (gate, expert, gate, expert)]


def forward(
    factor: Tensor, weight: Tensor, hidden: Tensor, expert: Tensor, half: Tensor, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """h' (batch text host), and the gate where it is to be kept; factor · weightᵀ is the hidden half of the gate."""
    gate = (factor @ weight.T).contiguous()
    fused = torch.empty_like(gate) if keep else None
    (_run if plain([gate, half, hidden, expert]) else _op)(gate, half, hidden, expert, fused)
    return (gate, None) if fused is None else (fused, gate)


def backward(upstream: Tensor, hidden: Tensor, expert: Tensor, gate: Tensor) -> list[Tensor]:
    """The gradients of hidden but for the product's, of expert, of the gate's sum (all rows), and of half."""
    tensors = upstream, hidden, expert, gate
    return (_run_back if plain(tensors) else _op_back)(*tensors)
