"""The selective scan on the CPU: compiled kernels on torch's threads, as the custom op `rrg::selective_scan_cpu`.

This module lays the memory out and shares the work; `kernels` computes. "Long" is what is as long as the sequence: u,
delta, z, y and their gradients, (batch groups share length) with `share` channels a group; it is read where it lies if
a group's channels lie side by side. "Small" is the rest, copied into the kernels' layout. A task is one batch entry and
at most `size` channels of a group.

The forward pass keeps the state before every 64th step; the backward pass computes the states between once more.
numba is imported at the first call. Its own parallel loops are not used: they kill forked workers, or abort where two
Python threads meet.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan import op
from rrg.ops.selective_scan.naive import Scan, state_dtype
from rrg.ops.threads import Run, share_out

AVAILABLE = find_spec("numba") is not None
EVERY = 64  # steps from one kept state to the next
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

    u, delta, z = scan.u, scan.delta, scan.z
    dtype, size, states = state_dtype(u), _size(scan), scan.A.shape[1]
    shared, stored = op.shared(scan), _stored(u, delta, z)
    long = [_sided(u, stored), _sided(delta, stored), None if z is None else _sided(z, stored)]
    y = op.long(u, dtype if shared else stored)
    starts = op.empty(len(u), -(-u.shape[3] // EVERY), states, len(scan.A), dtype=dtype)
    inputs = *map(_flat, long), _strides(*long, y), *_arrays(*op.small(scan, dtype)), order.numpy()

    def run(first: int, last: int) -> None:
        scratch = op.empty(states, size, dtype=dtype), op.empty(3, size, dtype=dtype)
        settings = scan.softplus, z is not None, shared, size, EVERY, first, last
        arguments: Any = (*inputs, *settings, *_arrays(*scratch), _flat(y), *_arrays(starts))
        kernels.forward(*arguments)

    _share_out(run, scan, size)
    return y.to(u.dtype), starts


def _backward(upstream: Tensor, scan: Scan, order: Tensor, starts: Tensor) -> list[Tensor]:
    """The gradients of the tensors given, in the scan's order."""
    from rrg.ops.selective_scan import kernels

    u, delta, z = scan.u, scan.delta, scan.z
    (batch, groups, share, length), states = delta.shape, scan.A.shape[1]
    dtype, size = state_dtype(u), _size(scan)
    shared, stored = op.shared(scan), _stored(u, delta, z, upstream)
    long = [None if each is None else _sided(each, stored) for each in (upstream, u, delta, z)]
    of_u, of_delta = op.long(u, dtype if shared else stored), op.like(delta, stored)
    of_z = None if z is None else op.long(z, stored)
    of_A, of_D, of_bias = (op.empty(batch, *each, groups * share, dtype=dtype) for each in ((states,), (), ()))
    of_B, of_C = (op.empty(-(-share // size), batch, length, groups, states, dtype=dtype) for _ in range(2))
    inputs = *map(_flat, long), _strides(*long, of_u, of_delta, of_z), *_arrays(*op.small(scan, dtype)), order.numpy()
    carry = op.empty(batch, states, groups * share, dtype=dtype)
    outputs = *map(_flat, (of_u, of_delta, of_z)), *_arrays(of_A, of_B, of_C, of_D, of_bias)

    def run(first: int, last: int) -> None:
        steps = min(EVERY, length)
        shapes = (2, steps, states, size), (5, steps, size), (2, size), (states, size)
        scratch = [op.empty(*shape, dtype=dtype) for shape in shapes]
        settings = scan.softplus, z is not None, shared, size, EVERY, first, last
        arguments: Any = (*inputs, *settings, *_arrays(starts, *scratch, carry), *outputs)
        kernels.backward(*arguments)

    _share_out(run, scan, size)
    of_A, of_B, of_C, of_D, of_bias = map(_total, (of_A, of_B, of_C, of_D, of_bias))
    gradients = of_u, of_delta, of_A.T, of_B.permute(0, 2, 3, 1), of_C.permute(0, 2, 3, 1), of_D, of_z, of_bias
    return op.given_alone(gradients, scan)


_scan = op.define("cpu", _forward, _backward, EVERY, "cpu")


def _stored(u: Tensor, *others: Tensor | None) -> torch.dtype:
    """The dtype in which the kernels read: bfloat16 where all have it, else the state's."""
    short = all(each is None or each.dtype == torch.bfloat16 for each in (u, *others))
    return torch.bfloat16 if short else state_dtype(u)


def _sided(x: Tensor, dtype: torch.dtype) -> Tensor:
    """With a group's channels side by side in memory: as it is, where they are; else a copy."""
    x = x.to(dtype)
    return x if x.stride(2) == 1 or x.shape[2] == 1 else x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


def _flat(x: Tensor | None) -> Any:
    """The memory of a tensor as the kernels read it: one long array."""
    if x is None:
        return torch.empty(0).numpy()
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True)) if x.numel() else 0
    flat = x.detach().as_strided((extent,), (1,))
    return (flat.view(torch.uint16) if x.dtype == torch.bfloat16 else flat).numpy()


def _strides(*long: Tensor | None) -> Any:
    """Of each: how far a batch entry, a position and a group lie apart; 0 for the group of what the groups share."""
    rows = [(0, 0, 0) if x is None else (x.stride(0), x.stride(3), x.stride(1) * (x.shape[1] > 1)) for x in long]
    return torch.tensor(rows).numpy()


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


def _total(parts: Tensor) -> Tensor:
    """The sum over the first axis, in order: torch's own may divide it among threads, and the last bits with them."""
    return torch.from_numpy(parts.numpy().sum(axis=0))


def _size(scan: Scan) -> int:
    """Channels of a task: a group in as few equal parts as WIDTH and HELD allow, in whole cache lines of 16 floats."""
    share = scan.delta.shape[2]
    parts = -(-share // max(min(WIDTH, HELD // scan.A.shape[1]), 16))
    return -(-share // parts // 16) * 16


def _share_out(run: Run, scan: Scan, size: int) -> None:
    """All tasks of a scan among threads; where the groups share u, a task takes its channels of all groups."""
    tasks = len(scan.u) * scan.u.shape[1] * -(-scan.delta.shape[2] // size)
    exponentials = scan.delta.numel() * scan.A.shape[1]
    share_out(run, tasks, max(min(torch.get_num_threads(), exponentials // GRAIN), 1))
