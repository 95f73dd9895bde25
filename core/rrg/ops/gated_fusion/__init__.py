"""LEAD's gated fusion at about the cost of its matrix product: split weights, one autograd function.

W[h; e] + b = W_h h + (W_e e + b). The second half is one row per study, so the caller computes it once and, while
decoding, keeps it. Backward needs the hidden states, which the product keeps anyway, and the gate: one hidden state's
size a layer, where the equations as printed keep four. Without gradients the result takes the gate's own memory.
What is not a product is one pass over memory, in `cpu` and `gpu`; elsewhere plain PyTorch.
"""

from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from rrg.errors import UsageError
from rrg.ops.shapes import Axes, axes_of, check

Backend = Literal["torch", "cpu", "triton"]
BACKENDS = get_args(Backend)
NUMBA, TRITON = (find_spec(name) is not None for name in ("numba", "triton"))
WIDE = torch.float32, torch.float64
LARGE = 2**17  # numbers of a hidden state from which on a compiled epilogue is worth its call


def gated_fusion(
    hidden: Float[Tensor, "batch text host"],
    expert: Float[Tensor, "batch host"],
    expert_half: Float[Tensor, "batch host"],
    weight: Float[Tensor, "inner host"],
    up: Float[Tensor, "host inner"] | None = None,
    *,
    backend: Literal["auto"] | Backend = "auto",
) -> Float[Tensor, "batch text host"]:
    """h' = (1 - g) ⊙ h + g ⊙ e with g = σ(W_h h + expert_half) (LEAD, eq. 1 and 2).

    expert_half: W_e e + b. weight: W_h, square; with `up`, W_h = up · weight, of low rank. The products run in
    autocast's dtype where it is on; the result has the dtype of `hidden`. `auto` is what `choice` says; `cpu` needs
    numba and one dtype for all, of 32 or 64 bits, `triton` the package of that name.

    Raises UsageError for a backend that is unknown or not there, and for shapes, dtypes or devices that do not fit.
    """
    if backend not in ("auto", *BACKENDS):
        raise UsageError(f"gated_fusion: backend={backend!r}; expected auto, torch, cpu or triton")
    for name, package, found in (("cpu", "numba", NUMBA), ("triton", "triton", TRITON)):
        if backend == name and not found:
            raise UsageError(f"gated_fusion: backend={name!r} needs {package}: pip install {package}")
    tensors: dict[str, Tensor | None] = {
        "hidden": hidden,
        "expert": expert,
        "expert_half": expert_half,
        "weight": weight,
        "up": up,
    }
    _check("gated_fusion", tensors, _AXES)
    kind = _kind(hidden)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if backend == "cpu" and not (hidden.device.type == "cpu" and hidden.dtype == dtype and dtype in WIDE):
        raise UsageError(
            f"gated_fusion: backend='cpu' given {hidden.dtype} on {hidden.device}, products in {dtype}; expected "
            "float32 or float64 for both, on the CPU"
        )
    given = (
        hidden,
        expert.to(hidden.dtype),
        expert_half.to(dtype),
        weight.to(dtype),
        None if up is None else up.to(dtype),
        choice(hidden, dtype) if backend == "auto" else backend,
    )
    if torch.is_grad_enabled() and any(isinstance(each, Tensor) and each.requires_grad for each in given):
        fused: Tensor = _GatedFusion.apply(*given)
        return fused
    return _fuse(*given, keep=False)[0]


def expert_half(
    expert: Float[Tensor, "batch host"],
    weight: Float[Tensor, "inner host"],
    bias: Float[Tensor, " host"],
    up: Float[Tensor, "host inner"] | None = None,
) -> Float[Tensor, "batch host"]:
    """W_e e + b, with `up` W_e = up · weight. Of so few rows a CPU computes the transposed product faster.

    Raises UsageError for shapes, dtypes or devices that do not fit.
    """
    _check("expert_half", {"expert": expert, "weight": weight, "bias": bias, "up": up}, _HALF_AXES)
    factor, last = (expert.T, weight) if up is None else (weight @ expert.T, up)
    return torch.addmm(bias.unsqueeze(1), last, factor).T.contiguous()


def choice(hidden: Tensor, dtype: torch.dtype) -> Backend:
    """The backend that `auto` takes. dtype: of the products; on GPUs 32-bit ones are faster in the vendor's library."""
    if hidden.device.type == "cuda":
        return "triton" if dtype in (torch.bfloat16, torch.float16) and TRITON else "torch"
    single = hidden.device.type == "cpu" and hidden.dtype == dtype == torch.float32
    worth = hidden.numel() >= LARGE and not torch.compiler.is_compiling()  # it fuses by itself
    return "cpu" if single and worth and NUMBA else "torch"


_AXES, _HALF_AXES = axes_of(gated_fusion), axes_of(expert_half)


def _check(function: str, tensors: dict[str, Tensor | None], axes: Axes) -> None:
    check(function, tensors, axes)
    weight = tensors["weight"]
    if tensors["up"] is None and weight is not None and weight.shape[0] != weight.shape[1]:
        raise UsageError(f"{function}: weight is {tuple(weight.shape)}; expected it square, or with `up`")


def _kind(tensor: Tensor) -> str:
    """Whose autocast counts: planning's tensors lie on the meta device, which has none, and count as the CPU's."""
    return "cpu" if tensor.is_meta else tensor.device.type


def _without_autocast(tensor: Tensor) -> AbstractContextManager[object]:
    kind = _kind(tensor)
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _fuse(
    hidden: Tensor, expert: Tensor, half: Tensor, weight: Tensor, up: Tensor | None, backend: str, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """h', the gate where it is kept, and W · h of a low-rank weight."""
    with _without_autocast(hidden):
        inner = None if up is None else hidden.to(weight.dtype) @ weight.T
        factor, last = (hidden.to(weight.dtype), weight) if inner is None or up is None else (inner, up)
        gate: Tensor | None
        if backend == "triton":
            from rrg.ops.gated_fusion import gpu

            fused, gate = gpu.forward(factor, last, hidden, expert, half, keep)
        elif backend == "cpu":
            from rrg.ops.gated_fusion import cpu

            fused, gate = cpu.forward(factor, last, hidden, expert, half, keep)
        else:
            gate = factor @ last.T
            gate.add_(half.unsqueeze(1)).sigmoid_()
            share = gate.to(hidden.dtype)
            fused = torch.lerp(hidden, expert.unsqueeze(1), share, out=None if keep else share)
        return fused, gate, inner


class _GatedFusion(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, expert: Tensor, half: Tensor, weight: Tensor, up: Tensor | None, backend: str
    ) -> Tensor:
        fused, gate, inner = _fuse(hidden, expert, half, weight, up, backend, keep=True)
        ctx.backend = backend
        ctx.save_for_backward(hidden, expert, gate, weight, up, inner)
        return fused

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, expert, gate, weight, up, inner = ctx.saved_tensors
        with _without_autocast(hidden):
            if ctx.backend == "triton":
                from rrg.ops.gated_fusion import gpu

                of_hidden, of_expert, of_sum, of_half = gpu.backward(upstream, hidden, expert, gate, weight.dtype)
            elif ctx.backend == "cpu":
                from rrg.ops.gated_fusion import cpu

                of_hidden, of_expert, of_sum, of_half = cpu.backward(upstream, hidden, expert, gate)
            else:
                taken = upstream * gate
                of_expert = taken.sum(dim=1)
                of_hidden = torch.sub(upstream, taken, out=taken)
                of_gate = torch.sub(expert.unsqueeze(1), hidden).mul_(upstream).to(gate.dtype)
                of_sum = torch.ops.aten.sigmoid_backward.grad_input(of_gate, gate, grad_input=of_gate)
                of_half = of_sum.sum(dim=1)
            rows = of_sum.flatten(0, 1)
            of_up = rows.T @ inner.flatten(0, 1) if up is not None and ctx.needs_input_grad[4] else None
            rows = rows if up is None else rows @ up
            of_weight = rows.T @ hidden.flatten(0, 1).to(rows.dtype) if ctx.needs_input_grad[3] else None
            if rows.dtype == of_hidden.dtype:
                of_hidden.view(-1, hidden.shape[-1]).addmm_(rows, weight)
            else:
                of_hidden = of_hidden + (rows @ weight).view_as(of_hidden)
        return of_hidden, of_expert, of_half, of_weight, of_up, None
