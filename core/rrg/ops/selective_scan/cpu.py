"""The selective scan on the CPU: compiled kernels on torch's threads, as the custom op `rrg::selective_scan_cpu`.

This module lays the memory out and shares the work; `kernels` computes. "Long" is what is as long as the sequence: u,
delta, z, y and their gradients, (batch groups share length) with `share` channels a group; it is read where it lies if
a group's channels lie side by side. "Small" is the rest, copied into the kernels' layout. A task is one batch entry and
at most `size` channels of a group.

The forward pass keeps the state before every 64th step; the backward pass computes the states between once more.
numba is imported at the first call. Its own parallel loops are not used: they kill forked workers, or abort where two
Python threads meet.
"""

import itertools
import math
from array import array
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan import op
from rrg.ops.selective_scan.naive import Scan, state_dtype
from rrg.ops.threads import share_out

AVAILABLE = find_spec("numba") is not None
EVERY = 64  # steps from one kept state to the next
LINE = 16  # numbers of a cache line
WIDTH = 192  # channels of a task at most
HELD = 3072  # numbers of its state at most, so that they stay in the cache
GRAIN = 2**15  # exponentials, one for each step of each state, that are worth a thread


def selective_scan(scan: Scan) -> Tensor:
    """Without a copy where channels lie side by side in memory."""
    return op.by_groups(ordered_scan, scan)


def ordered_scan(scan: Scan, order: Tensor) -> Tensor:
    """Shapes as in `rrg.ops.selective_scan.op`."""
    if not AVAILABLE:
        raise UsageError("selective_scan: backend='cpu' needs numba: pip install numba")
    if scan.u.device.type not in ("cpu", "meta"):
        raise UsageError(f"selective_scan: backend='cpu' given u on {scan.u.device}; expected it on the CPU")
    return _scan(scan, order)


def _forward(scan: Scan, order: Tensor) -> tuple[Tensor, Tensor]:
    """y, and the state before every `EVERY`-th step (batch chunks N channels)."""
    from rrg.ops.selective_scan import kernels

    dtype, stored = state_dtype(scan.u), _stored(scan)
    u, delta, z = (None if each is None else _sided(each, stored) for each in (scan.u, scan.delta, scan.z))
    y = op.long(scan.u, dtype if op.shared(scan) else stored)
    chunks, (channels, states) = -(-scan.u.shape[3] // EVERY), scan.A.shape
    starts = op.empty(len(scan.u), chunks, states, channels, dtype=dtype)
    work = kernels.forward(_NUMPY[dtype], _NUMPY[stored], _NUMPY[y.dtype])
    long = {"grad_y": None, "u": u, "delta": delta, "z": z, "y": y, "of_delta": None, "of_z": None}
    _work_off(work, kernels.forward_rows(states), scan, stored, order, long, {"starts": starts})
    return op.cast(y, scan.u.dtype), starts


def _backward(upstream: Tensor, scan: Scan, order: Tensor, starts: Tensor) -> list[Tensor]:
    """The gradients of the tensors given, in the scan's order."""
    from rrg.ops.selective_scan import kernels

    (batch, groups, share, length), states = scan.delta.shape, scan.A.shape[1]
    dtype, stored = state_dtype(scan.u), _stored(scan, upstream)
    given = {"grad_y": upstream, "u": scan.u, "delta": scan.delta, "z": scan.z}
    long = {name: None if each is None else _sided(each, stored) for name, each in given.items()}
    of_u, of_delta = op.long(scan.u, dtype if op.shared(scan) else stored), op.like(scan.delta, stored)
    of_z = None if scan.z is None else op.long(scan.z, stored)
    carry, of_A = (op.empty(batch, states, groups * share, dtype=dtype) for _ in range(2))
    of_D, of_bias = (op.empty(batch, groups * share, dtype=dtype) for _ in range(2))
    parts = -(-share // (_lines(scan) * LINE))
    of_B, of_C = (op.empty(parts, batch, length, groups, states, dtype=dtype) for _ in range(2))
    work = kernels.backward(_NUMPY[dtype], _NUMPY[stored], _NUMPY[of_u.dtype])
    long |= {"of_u": of_u, "of_delta": of_delta, "of_z": of_z}
    others = {"of_A": of_A, "of_B": of_B, "of_C": of_C, "of_D": of_D, "of_bias": of_bias}
    rows = kernels.backward_rows(states, min(EVERY, length))
    others |= {"starts": op.cast(starts, dtype).contiguous(), "carry": carry}
    _work_off(work, rows, scan, stored, order, long, others)
    of_A, of_B, of_C, of_D, of_bias = map(_total, (of_A, of_B, of_C, of_D, of_bias))
    gradients = of_u, of_delta, of_A.T, of_B.permute(0, 2, 3, 1), of_C.permute(0, 2, 3, 1), of_D, of_z, of_bias
    return op.given_alone(gradients, scan)


_NUMPY = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.bfloat16: np.dtype(np.uint16),  # its bits
}
_scan = op.define("cpu", _forward, _backward, EVERY, "cpu")


def _stored(scan: Scan, *others: Tensor) -> torch.dtype:
    """The dtype in which the kernels read what is long, B and C: bfloat16 where all have it, else the state's."""
    read = scan.u, scan.delta, scan.z, scan.B, scan.C, *others
    short = all(each is None or each.dtype == torch.bfloat16 for each in read)
    return torch.bfloat16 if short else state_dtype(scan.u)


def _sided(x: Tensor, dtype: torch.dtype) -> Tensor:
    """With a group's channels side by side in memory: as it is where they are; else a copy of what is not expanded."""
    if x.dtype == dtype and (x.stride(2) == 1 or x.shape[2] == 1):
        return x
    once = x[tuple(slice(1) if stride == 0 and axis != 2 else slice(None) for axis, stride in enumerate(x.stride()))]
    return op.cast(once.permute(0, 3, 1, 2), dtype).contiguous().permute(0, 2, 3, 1).expand(x.shape)


def _total(parts: Tensor) -> Tensor:
    """The sum over the first axis, in order: torch's own may divide it among threads, and the last bits with them."""
    return parts[0] if len(parts) == 1 else torch.from_numpy(parts.numpy().sum(axis=0))


def _lines(scan: Scan) -> int:
    """Cache lines of a task's row: a group's channels in as few equal parts as WIDTH and HELD allow."""
    share = scan.delta.shape[2]
    parts = -(-share // max(min(WIDTH, HELD // scan.A.shape[1]), LINE))
    return math.ceil(share / parts / LINE)


def _work_off(
    work: Any,
    rows: int,
    scan: Scan,
    stored: torch.dtype,
    order: Tensor,
    long: dict[str, Tensor | None],
    others: dict[str, Tensor],
) -> None:
    """Share a scan's tasks out among threads. Tensors have `kernels.TENSORS`' names; long ones, the strides' order.

    Where the groups share u, a task takes its channels of all groups.
    """
    from rrg.ops.selective_scan import kernels

    dtype, shared, lines = state_dtype(scan.u), op.shared(scan), _lines(scan)
    (batch, groups, share, length), states = scan.delta.shape, scan.A.shape[1]
    tasks = batch * (1 if shared else groups) * -(-share // (lines * LINE))
    threads = max(min(torch.get_num_threads(), scan.delta.numel() * states // GRAIN, tasks), 1)
    A, B, C, D, bias = op.small(scan, dtype, stored)
    order = order.contiguous()
    scratch = op.empty(threads * rows, lines * LINE, dtype=dtype)
    small = {"A": A, "B": B, "C": C, "D": D, "bias": bias, "order": order, "scratch": scratch}
    # Twice as many pieces as threads: one that another program holds up leaves its pieces to the others.
    counts = 0, 0, threads, tasks, max(tasks // (2 * threads), 1)
    sizes = batch, length, groups, share, states, len(order), EVERY, lines, scan.softplus, scan.z is not None, shared
    tensors = long | others | small
    addresses = [0 if (tensor := tensors.get(name)) is None else tensor.data_ptr() for name in kernels.TENSORS]
    job = array("q", [*counts, *sizes, *addresses, *itertools.chain.from_iterable(map(_strides, long.values()))])
    share_out(work.address, job.buffer_info()[0], threads, [job, *tensors.values()])


def _strides(x: Tensor | None) -> tuple[int, int, int]:
    if x is None:
        return 0, 0, 0
    of_batch, of_group, _, of_position = x.stride()
    return of_batch, of_position, of_group if x.shape[1] > 1 else 0
