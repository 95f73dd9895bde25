"""The selective scan on the CPU: compiled kernels on a pool of threads, as the custom op `rrg::selective_scan_cpu`.

The forward pass keeps the state before every 64th step; the backward pass computes the states between once more.
numba is imported at the first call. Its own parallel loops are not used: they kill forked workers, or abort where two
Python threads meet.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan.naive import state_dtype

AVAILABLE = find_spec("numba") is not None
EVERY = 64  # steps from one kept state to the next
# Channels that one task takes along; fewer where there are many states, so that what it keeps stays in the cache.
WIDTH, STATES = 192, 3072
GRAIN = 2**15  # exponentials worth a thread


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> Tensor:
    """Shapes as in `rrg.ops.selective_scan`. Without a copy where channels lie side by side in memory."""
    if not AVAILABLE:
        raise UsageError("selective_scan: backend='cpu' needs numba: pip install numba")
    if u.device.type not in ("cpu", "meta"):
        raise UsageError(f"selective_scan: backend='cpu' given tensors on {u.device}; expected them on the CPU")
    y: Tensor = _forward(u, delta, A, B, C, D, z, delta_bias, softplus)[0]
    return y


@torch.library.custom_op("rrg::selective_scan_cpu", mutates_args=(), device_types="cpu")
def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    """y, and the state before every `EVERY`-th step (batch chunks N channels)."""
    from rrg.ops.selective_scan import kernels

    (batch, channels, length), states = u.shape, A.shape[1]
    inputs, dtype, size = _inputs(u, delta, A, B, C, D, delta_bias, z), state_dtype(u), _size(A, B)
    y = _empty(batch, length, channels, dtype=dtype)
    starts = _empty(batch, -(-length // EVERY), states, channels, dtype=dtype)

    def run(first: int, last: int) -> None:
        scratch = _empty(states, size, dtype=dtype), _empty(size, dtype=dtype)
        settings = softplus, z is not None, size, EVERY, first, last
        arguments: Any = (*_arrays(*inputs), *settings, *_arrays(*scratch, y, starts))
        kernels.forward(*arguments)

    _share_out(run, _tasks(u, B, size), y.numel() * states)
    return y.to(u.dtype).transpose(1, 2), starts


@torch.library.custom_op("rrg::selective_scan_cpu_backward", mutates_args=(), device_types="cpu")
def _backward(
    upstream: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    starts: Tensor,
    softplus: bool,
) -> list[Tensor]:
    """The gradients of the tensors given, in the order of the arguments from u on."""
    from rrg.ops.selective_scan import kernels

    (batch, channels, length), (states, groups) = u.shape, (A.shape[1], B.shape[1])
    inputs, dtype, size = _inputs(u, delta, A, B, C, D, delta_bias, z), state_dtype(u), _size(A, B)
    empty = partial(_empty, dtype=dtype)
    of_u, of_delta = empty(batch, length, channels), empty(batch, length, channels)
    of_z = empty(*of_u.shape) if z is not None else empty(0, 0, 0)
    parts = -(-(channels // groups) // size)
    of_A, of_D, of_bias = empty(batch, states, channels), empty(batch, channels), empty(batch, channels)
    of_B, of_C = (empty(parts, batch, length, groups, states) for _ in range(2))
    out, carry = _by_time(upstream, dtype), empty(batch, states, channels)

    def run(first: int, last: int) -> None:
        steps = min(EVERY, length)
        scratch = empty(2, steps, states, size), empty(4, steps, size), empty(states, size)
        settings = softplus, z is not None, size, EVERY, first, last
        outputs = _arrays(starts, *scratch, carry, of_u, of_delta, of_A, of_B, of_C, of_D, of_bias, of_z)
        arguments: Any = (*_arrays(out, *inputs), *settings, *outputs)
        kernels.backward(*arguments)

    _share_out(run, _tasks(u, B, size), of_u.numel() * states)
    of_A, of_B, of_C, of_D, of_bias = (_total(each) for each in (of_A, of_B, of_C, of_D, of_bias))
    of_u, of_delta, of_z = (each.transpose(1, 2) for each in (of_u, of_delta, of_z))
    of_B, of_C = (each.permute(0, 2, 3, 1) for each in (of_B, of_C))
    gradients = of_u, of_delta, of_A.T, of_B, of_C, of_D, of_z, of_bias
    given = u, delta, A, B, C, D, z, delta_bias
    return [gradient.to(tensor.dtype) for gradient, tensor in zip(gradients, given, strict=True) if tensor is not None]


@_forward.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    softplus: bool,
) -> tuple[Tensor, Tensor]:
    batch, channels, length = u.shape
    starts = u.new_empty(batch, -(-length // EVERY), A.shape[1], channels, dtype=state_dtype(u))
    return _like_by_time(u), starts


@_backward.register_fake
def _(
    upstream: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    starts: Tensor,
    softplus: bool,
) -> list[Tensor]:
    gradients = [_like_by_time(u), _like_by_time(delta), A.new_empty(A.shape[::-1]).T]
    gradients += [each.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for each in (B, C)]
    gradients += [] if D is None else [D.new_empty(D.shape)]
    gradients += [] if z is None else [_like_by_time(z)]
    return gradients + ([] if delta_bias is None else [delta_bias.new_empty(delta_bias.shape)])


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.softplus = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, upstream: Tensor, _: None) -> tuple[Tensor | None, ...]:
    tensors = ctx.saved_tensors
    found = iter(_backward(upstream, *tensors, ctx.softplus))
    return *(None if tensor is None else next(found) for tensor in tensors[:-1]), None


_forward.register_autograd(_gradients, setup_context=_keep)


def _inputs(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    z: Tensor | None,
) -> list[Tensor]:
    """As the kernels read them: contiguous, in the state's dtype."""
    dtype = state_dtype(u)
    nothing = torch.zeros(u.shape[1], dtype=dtype)
    D, bias = (nothing if each is None else each.to(dtype).contiguous() for each in (D, delta_bias))
    B, C = (each.permute(0, 3, 1, 2).to(dtype).contiguous() for each in (B, C))
    gate = nothing.new_empty(0, 0, 0) if z is None else _by_time(z, dtype)
    return [_by_time(u, dtype), _by_time(delta, dtype), A.T.to(dtype).contiguous(), B, C, D, bias, gate]


def _by_time(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(batch channels length) to a contiguous (batch length channels)."""
    return x.transpose(1, 2).contiguous().to(dtype)


def _like_by_time(x: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[2], x.shape[1]).transpose(1, 2)


def _arrays(*tensors: Tensor) -> list[Any]:
    return [tensor.detach().numpy() for tensor in tensors]


def _empty(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def _total(parts: Tensor) -> Tensor:
    """Over the first axis, in order: torch's own sum may divide it among its threads."""
    return torch.from_numpy(parts.numpy().sum(axis=0))


def _size(A: Tensor, B: Tensor) -> int:
    """Channels of a task: equal parts of a group, in whole cache lines."""
    share = A.shape[0] // B.shape[1]
    parts = -(-share // max(min(WIDTH, STATES // A.shape[1]), 16))
    return -(-share // parts // 16) * 16


def _tasks(u: Tensor, B: Tensor, size: int) -> int:
    groups = B.shape[1]
    return len(u) * groups * -(-(u.shape[1] // groups) // size)


def _share_out(run: Callable[[int, int], None], tasks: int, work: int) -> None:
    """run(first, last) over all tasks, on up to torch.get_num_threads() threads, of which this is one.

    Twice as many pieces as threads: one that another program holds up leaves its pieces to the others.
    """
    threads = max(min(torch.get_num_threads(), tasks, work // GRAIN), 1)
    pieces = min(2 * threads, tasks) if threads > 1 else 1
    bounds = [tasks * i // pieces for i in range(pieces + 1)]
    following = pairwise(bounds)  # next() on it is one step under the interpreter's lock

    def work_off() -> None:
        for first, last in following:
            run(first, last)

    others = [_pool().submit(work_off) for _ in range(threads - 1)]
    work_off()
    for other in others:
        if not other.cancel():
            other.result()


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="selective_scan")


os.register_at_fork(after_in_child=_pool.cache_clear)  # a child has none of the threads
