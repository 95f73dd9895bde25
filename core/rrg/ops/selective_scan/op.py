"""What compiled backends share: a custom op with its shapes for tracing and its gradient, and their memory's layout.

In the op, a scan's groups read the positions in orders of their own and may share u; then y is the sum over them:
u, z, y (batch groups or 1, share, length), delta (batch groups share length), order (groups or 1, length). The rest of
a `Scan` is as in `rrg.ops.selective_scan`.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rrg.ops.direct import plain
from rrg.ops.selective_scan.naive import Scan, state_dtype

INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias"
Forward = Callable[[Scan, Tensor], tuple[Tensor, Tensor]]
Backward = Callable[[Tensor, Scan, Tensor, Tensor], list[Tensor]]
Op = Callable[[Scan, Tensor], Tensor]


def define(name: str, forward: Forward, backward: Backward, every: int, devices: str | None) -> Op:
    """The op `rrg::selective_scan_NAME`, and `..._backward`.

    forward(scan, order) gives y and the state before every `every`-th step (batch chunks N channels); backward(∂y,
    scan, order, those states) gives the gradients of the tensors given, in the scan's order. All lie as `long` says.
    """

    def run(*inputs: Any) -> tuple[Tensor, Tensor]:
        return forward(Scan._make(inputs[:-1]), inputs[-1])

    def run_back(upstream: Tensor, *inputs: Any) -> list[Tensor]:
        *tensors, order, starts, softplus = inputs
        return backward(upstream, Scan._make([*tensors, softplus]), order, starts)

    full = f"rrg::selective_scan_{name}"
    schema = f"({INPUTS}, bool softplus, Tensor order) -> (Tensor, Tensor)"
    op = torch.library.custom_op(full, run, mutates_args=(), device_types=devices, schema=schema)
    schema = f"(Tensor upstream, {INPUTS}, Tensor order, Tensor starts, bool softplus) -> Tensor[]"
    back = torch.library.custom_op(f"{full}_backward", run_back, mutates_args=(), device_types=devices, schema=schema)

    @op.register_fake
    def _(u: Tensor, delta: Tensor, A: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        starts = u.new_empty(len(u), -(-u.shape[3] // every), A.shape[1], A.shape[0], dtype=state_dtype(u))
        return long(u, u.dtype), starts

    @back.register_fake
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

    def gradients(ctx: Any, upstream: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        return _apart(back, ctx, upstream)

    op.register_autograd(gradients, setup_context=keep)

    class Direct(torch.autograd.Function):
        """The op without torch's dispatcher, which takes as long as a short scan."""

        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Tensor:
            output = run(*inputs)
            keep(ctx, inputs, output)
            return output[0]

        @staticmethod
        def backward(ctx: Any, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
            # The op says that it has no second derivative, which is asked for where gradients are recorded.
            direct = not torch.is_grad_enabled() and plain([upstream, *ctx.saved_tensors])
            return _apart(run_back if direct else back, ctx, upstream)

    def choose(scan: Scan, order: Tensor) -> Any:
        direct = plain([*scan[:-1], order])
        if direct and torch.is_grad_enabled():
            return Direct.apply(*scan, order)
        return (run if direct else op)(*scan, order)[0]

    return choose


def _apart(back: Callable[..., list[Tensor]], ctx: Any, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
    """A gradient, or None, for each input."""
    tensors = ctx.saved_tensors
    if upstream is None:
        return (None,) * (len(tensors) + 1)
    found = iter(back(upstream, *tensors, ctx.softplus))
    return *(None if tensor is None else next(found) for tensor in tensors[:-2]), None, None


def by_groups(op: Op, scan: Scan) -> Tensor:
    """A plain scan, with the shapes of `rrg.ops.selective_scan`, by an op of the shapes above."""
    batch, channels, length = scan.u.shape
    sizes = batch, scan.B.shape[1], channels // scan.B.shape[1], length
    z = None if scan.z is None else scan.z.view(sizes)
    order = torch.arange(length, device=scan.u.device).view(1, length)
    y = op(scan._replace(u=scan.u.view(sizes), delta=scan.delta.view(sizes), z=z), order)
    return reshaped(y, batch, channels, length)


def reshaped(y: Tensor, *shape: int) -> Tensor:
    """A result that no other tensor shows, and so no view of it: it may be changed in place."""
    result: Tensor = torch.ops.aten._unsafe_view.default(y, shape)
    return result


def shared(scan: Scan) -> bool:
    """Whether the groups share u."""
    return scan.u.shape[1] < scan.delta.shape[1]


def empty(*shape: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    return torch.empty(shape, dtype=dtype, device=device)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x.to(dtype)`, at no cost where nothing is to do."""
    return x if x.dtype == dtype else x.to(dtype)


def long(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for a result of x's shape, channels side by side, then groups, then positions."""
    _, groups, share, length = x.shape
    strides = length * groups * share, share, 1, groups * share
    return torch.empty_strided(x.shape, strides, dtype=dtype, device=x.device)


def like(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory for a result of x's shape, laid out as x is where its channels lie side by side without gaps."""
    if x.stride(2) == 1 and torch.ops.aten.is_non_overlapping_and_dense(x):
        return torch.empty_like(x, dtype=dtype)
    return long(x, dtype)


def small(scan: Scan, dtype: torch.dtype, of_B: torch.dtype) -> list[Tensor]:
    """The short inputs as the kernels read them, contiguous: A (N channels), B, C (batch length groups N), D, bias."""
    D, bias = (
        scan.A.new_zeros(len(scan.A), dtype=dtype) if each is None else cast(each, dtype).contiguous()
        for each in (scan.D, scan.delta_bias)
    )
    B, C = (cast(each.permute(0, 3, 1, 2), of_B).contiguous() for each in (scan.B, scan.C))
    return [cast(scan.A.T, dtype).contiguous(), B, C, D, bias]


def given_alone(gradients: tuple[Tensor | None, ...], scan: Scan) -> list[Tensor]:
    """Gradients of the tensors that were given, each in its tensor's dtype."""
    pairs = zip(gradients, scan[:-1], strict=True)
    return [cast(gradient, each.dtype) for gradient, each in pairs if gradient is not None and each is not None]
