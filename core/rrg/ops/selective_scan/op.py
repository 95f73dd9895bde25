"""What compiled backends share: a custom op with its shapes for tracing and its gradient, and their memory's layout.

In the op, a scan's groups read the positions in orders of their own and may share u; then y is the sum over them:
u, z, y (batch groups or 1, share, length), delta (batch groups share length), order (groups or 1, length). The other
arguments are as in `rrg.ops.selective_scan`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rrg.ops.selective_scan.naive import state_dtype

INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias"
Op = Callable[..., Tensor]


def define(name: str, forward: Any, backward: Any, every: int, devices: str | None) -> Op:
    """The op `rrg::selective_scan_NAME`, and `..._backward`.

    forward gives y and the state before every `every`-th step (batch chunks N channels), backward the gradients of the
    tensors given, in the order of the arguments; the layouts of both are those of `long`.
    """
    full = f"rrg::selective_scan_{name}"
    schema = f"({INPUTS}, bool softplus, Tensor order) -> (Tensor, Tensor)"
    op = torch.library.custom_op(full, forward, mutates_args=(), device_types=devices, schema=schema)
    schema = f"(Tensor upstream, {INPUTS}, Tensor order, Tensor starts, bool softplus) -> Tensor[]"
    back = torch.library.custom_op(f"{full}_backward", backward, mutates_args=(), device_types=devices, schema=schema)

    @op.register_fake  # type: ignore[untyped-decorator]
    def _(u: Tensor, delta: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        starts = u.new_empty(len(u), -(-u.shape[3] // every), A.shape[1], A.shape[0], dtype=state_dtype(u))
        return long(u, u.dtype), starts

    @back.register_fake  # type: ignore[untyped-decorator]
    def _(upstream: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *rest: Any) -> list[Tensor]:
        D, z, delta_bias = rest[:3]
        gradients = [long(u, u.dtype), like(delta, delta.dtype), A.new_empty(A.shape[::-1]).T]
        gradients += [each.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) for each in (B, C)]
        gradients += [] if D is None else [D.new_empty(D.shape)]
        gradients += [] if z is None else [long(z, z.dtype)]
        return gradients + ([] if delta_bias is None else [delta_bias.new_empty(delta_bias.shape)])

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        *tensors, ctx.softplus, order = inputs
        ctx.save_for_backward(*tensors, order, output[1])
        ctx.set_materialize_grads(False)

    def gradients(ctx: Any, upstream: Tensor, _: None) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        found = iter(back(upstream, *tensors, ctx.softplus))
        return *(None if tensor is None else next(found) for tensor in tensors[:-2]), None, None

    op.register_autograd(gradients, setup_context=keep)
    return lambda *arguments: op(*arguments)[0]


def by_groups(scan: Op, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, *rest: Any) -> Tensor:
    """A plain scan, with the shapes of `rrg.ops.selective_scan`, by an op of the shapes above."""
    C, D, z, delta_bias, softplus = rest
    sizes = B.shape[1], -1
    u, delta = u.unflatten(1, sizes), delta.unflatten(1, sizes)
    order = torch.arange(u.shape[3], device=u.device).unsqueeze(0)
    z = None if z is None else z.unflatten(1, sizes)
    return scan(u, delta, A, B, C, D, z, delta_bias, softplus, order).flatten(1, 2)


def shared(u: Tensor, delta: Tensor) -> bool:
    """Whether the groups share u."""
    return u.shape[1] < delta.shape[1]


def empty(*shape: int, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def long(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for a result of x's shape, channels side by side, then groups, then positions."""
    batch, groups, share, length = x.shape
    return empty(batch, length, groups, share, dtype=dtype, device=x.device).permute(0, 2, 3, 1)


def like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for a result of x's shape, laid out as x is where its channels lie side by side without gaps."""
    if x.stride(2) == 1 and torch.ops.aten.is_non_overlapping_and_dense(x):
        return empty(x.numel(), dtype=dtype, device=x.device).as_strided(x.shape, x.stride())
    return long(x, dtype)


def small(
    A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, delta_bias: Tensor | None, dtype: torch.dtype
) -> list[Tensor]:
    """The short inputs as the kernels read them, contiguous: A (N channels), B, C (batch length groups N), D, bias."""
    nothing = A.new_zeros(len(A), dtype=dtype)
    D, bias = (nothing if each is None else each.to(dtype).contiguous() for each in (D, delta_bias))
    B, C = (each.permute(0, 3, 1, 2).to(dtype).contiguous() for each in (B, C))
    return [A.T.to(dtype).contiguous(), B, C, D, bias]


def given_alone(gradients: tuple[Tensor | None, ...], *given: Tensor | None) -> list[Tensor]:
    """Gradients of the tensors that were given, each in its tensor's dtype."""
    pairs = zip(gradients, given, strict=True)
    return [gradient.to(each.dtype) for gradient, each in pairs if gradient is not None and each is not None]
