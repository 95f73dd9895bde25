"""The selective scan (S6) of Mamba: one function, several backends that compute the same."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan import chunked, cpu, naive

TRITON = find_spec("triton") is not None
MAMBA_SSM = find_spec("selective_scan_cuda") is not None  # what mamba-ssm builds
Backend = Literal["auto", "naive", "chunked", "cpu", "triton", "mamba-ssm"]


def _triton(*arguments: Any) -> Tensor:
    _need_triton()
    from rrg.ops.selective_scan import gpu  # imports triton

    return gpu.selective_scan(*arguments)


def _mamba_ssm(*arguments: Any) -> Tensor:
    from rrg.ops.selective_scan import mamba

    return mamba.selective_scan(*arguments)


def _ordered_triton(*arguments: Any) -> Tensor:
    _need_triton()
    from rrg.ops.selective_scan import gpu

    return gpu.ordered_scan(*arguments)


def _need_triton() -> None:
    if not TRITON:
        raise UsageError("selective_scan: backend='triton' needs triton: pip install triton")


BACKENDS: dict[str, Callable[..., Tensor]] = {
    "naive": naive.selective_scan,
    "chunked": chunked.selective_scan,
    "cpu": cpu.selective_scan,
    "triton": _triton,
    "mamba-ssm": _mamba_ssm,
}
# Those whose kernels read positions in any order, from a u that several groups share.
ORDERED: dict[str, Callable[..., Tensor]] = {"cpu": cpu.ordered_scan, "triton": _ordered_triton}


def selective_scan(
    u: Float[Tensor, "batch channels length"],
    delta: Float[Tensor, "batch channels length"],
    A: Float[Tensor, "channels states"],
    B: Float[Tensor, "batch groups states length"],
    C: Float[Tensor, "batch groups states length"],
    D: Float[Tensor, " channels"] | None = None,
    *,
    z: Float[Tensor, "batch channels length"] | None = None,
    delta_bias: Float[Tensor, " channels"] | None = None,
    softplus: bool = True,
    backend: Backend = "auto",
) -> Float[Tensor, "batch channels length"]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t · h_t + D u_t, with Δ = softplus(delta + delta_bias).

    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), eq. 2a, 2b and 4; with z the
    result is y · silu(z). Channels come in `groups` equal parts, each with its own B and C. A ≤ 0 keeps the state
    bounded. The state is float32, or float64 for float64 u; the result has u's dtype. Every tensor gets a gradient.
    `auto` is the fastest backend for the tensors given, as `choice` says; `cpu` needs numba, `triton` and `mamba-ssm`
    the packages of those names and a GPU.

    Raises UsageError for a backend that is unknown or not there, and for shapes, dtypes or devices that do not fit.
    """
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    _check("selective_scan", backend, named, {"u": 3, "A": 2, "B": 4})
    (batch, channels, length), states, groups = u.shape, A.shape[1], B.shape[1]
    long, grouped = (batch, channels, length), (batch, groups, states, length)
    shapes: dict[str, tuple[int, ...]] = {"delta": long, "A": (channels, states), "B": grouped, "C": grouped}
    _check_shapes("selective_scan", named, {**shapes, "D": (channels,), "z": long, "delta_bias": (channels,)})
    if channels % groups:
        raise UsageError(f"selective_scan: {groups} groups of B and C do not divide {channels} channels of u")
    return BACKENDS[choice(u) if backend == "auto" else backend](u, delta, A, B, C, D, z, delta_bias, softplus)


def selective_scan_2d(
    u: Float[Tensor, "batch channels height width"],
    delta: Float[Tensor, "batch 4 channels height width"],
    A: Float[Tensor, "4*channels states"],
    B: Float[Tensor, "batch 4 states height width"],
    C: Float[Tensor, "batch 4 states height width"],
    D: Float[Tensor, " 4*channels"] | None = None,
    *,
    delta_bias: Float[Tensor, " 4*channels"] | None = None,
    softplus: bool = True,
    backend: Backend = "auto",
) -> Float[Tensor, "batch channels height width"]:
    """The sum of four selective scans of one map: row by row, column by column, and both from the end.

    SS2D of Liu et al., "VMamba: Visual State Space Model" (NeurIPS 2024). delta, B and C belong to positions, not to
    steps, so that no direction needs a tensor of its own: `cpu` and `triton` read every position where it lies.

    Raises UsageError as `selective_scan` does.
    """
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "delta_bias": delta_bias}
    _check("selective_scan_2d", backend, named, {"u": 4, "A": 2})
    (batch, channels, height, width), states = u.shape, A.shape[1]
    film = (height, width)
    grouped, of_all = (batch, 4, states, *film), (4 * channels,)
    shapes: dict[str, tuple[int, ...]] = {"delta": (batch, 4, channels, *film), "A": (4 * channels, states)}
    _check_shapes("selective_scan_2d", named, {**shapes, "B": grouped, "C": grouped, "D": of_all, "delta_bias": of_all})
    u, delta, B, C = (each.flatten(-2) for each in (u, delta, B, C))
    order = _four_orders(height, width, u.device)
    name = choice(u) if backend == "auto" else backend
    if name in ORDERED:
        y = ORDERED[name](u.unsqueeze(1), delta, A, B, C, D, None, delta_bias, softplus, order).squeeze(1)
    else:
        delta, B, C = (each.take_along_dim(order[None, :, None], dim=3) for each in (delta, B, C))
        reads = u.to(naive.state_dtype(u))[:, :, order].transpose(1, 2)  # the four are added up before they are rounded
        y = BACKENDS[name](reads.flatten(1, 2), delta.flatten(1, 2), A, B, C, D, None, delta_bias, softplus)
        back = order.argsort(dim=1)[None, :, None]
        y = y.unflatten(1, (4, channels)).take_along_dim(back, dim=3).sum(dim=1).to(u.dtype)
    result: Tensor = y.unflatten(2, film)
    return result


def choice(u: Tensor) -> Literal["chunked", "cpu", "triton", "mamba-ssm"]:
    """The backend that `auto` takes."""
    if u.device.type == "cpu" and cpu.AVAILABLE:
        return "cpu"
    if u.device.type == "cuda" and TRITON:
        return "triton"
    if u.device.type == "cuda" and MAMBA_SSM:
        return "mamba-ssm"
    return "chunked"


def _four_orders(height: int, width: int, device: torch.device) -> Int[Tensor, "4 length"]:
    """The positions of a map as SS2D's directions read them."""
    by_row = torch.arange(height * width, device=device)
    by_column = by_row.view(height, width).T.flatten()
    return torch.stack([by_row, by_column, by_row.flip(0), by_column.flip(0)])


def _check(function: str, backend: str, named: dict[str, Tensor | None], axes: dict[str, int]) -> None:
    """axes: of the tensors whose shapes say what the others must be."""
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"{function}: backend={backend!r}; expected auto or one of {', '.join(BACKENDS)}")
    device = named["u"].device if named["u"] is not None else None
    for name, tensor in named.items():
        if tensor is None:
            continue
        if name in axes and (tensor.ndim != axes[name] or 0 in tensor.shape[1:]):
            shape = tuple(tensor.shape)
            raise UsageError(f"{function}: {name} is {shape}; expected {axes[name]} axes, none empty but the batch")
        if not tensor.is_floating_point():
            raise UsageError(f"{function}: {name} is {tensor.dtype}; expected floating-point numbers")
        if tensor.device != device:
            raise UsageError(f"{function}: {name} is on {tensor.device}; expected it on {device}, as u is")


def _check_shapes(function: str, named: dict[str, Tensor | None], shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        tensor = named[name]
        if tensor is not None and tensor.shape != shape:
            raise UsageError(f"{function}: {name} is {tuple(tensor.shape)}; the others ask for {shape}")
