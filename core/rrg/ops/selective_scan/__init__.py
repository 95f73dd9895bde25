"""The selective scan (S6) of Mamba: one function, several backends that compute the same."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan import chunked, cpu, naive, op
from rrg.ops.selective_scan.naive import Scan
from rrg.ops.shapes import Axes, axes_of, check

TRITON = find_spec("triton") is not None
MAMBA_SSM = find_spec("selective_scan_cuda") is not None  # what mamba-ssm builds
Backend = Literal["auto", "naive", "chunked", "cpu", "triton", "mamba-ssm"]


def _triton(scan: Scan) -> Tensor:
    _need_triton()
    from rrg.ops.selective_scan import gpu  # imports triton

    return gpu.selective_scan(scan)


def _mamba_ssm(scan: Scan) -> Tensor:
    from rrg.ops.selective_scan import mamba

    return mamba.selective_scan(scan)


def _ordered_triton(scan: Scan, order: Tensor) -> Tensor:
    _need_triton()
    from rrg.ops.selective_scan import gpu

    return gpu.ordered_scan(scan, order)


def _need_triton() -> None:
    if not TRITON:
        raise UsageError("selective_scan: backend='triton' needs triton: pip install triton")


BACKENDS: dict[str, Callable[[Scan], Tensor]] = {
    "naive": naive.selective_scan,
    "chunked": chunked.selective_scan,
    "cpu": cpu.selective_scan,
    "triton": _triton,
    "mamba-ssm": _mamba_ssm,
}
# Those whose kernels read positions in any order, from a u that several groups share.
ORDERED: dict[str, Callable[[Scan, Tensor], Tensor]] = {"cpu": cpu.ordered_scan, "triton": _ordered_triton}


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
    scan = Scan(u, delta, A, B, C, D, z, delta_bias, softplus)
    _check("selective_scan", backend, scan, _AXES)
    if u.shape[1] % B.shape[1]:
        raise UsageError(f"selective_scan: {B.shape[1]} groups of B and C do not divide {u.shape[1]} channels of u")
    return BACKENDS[choice(u) if backend == "auto" else backend](scan)


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
    scan = Scan(u, delta, A, B, C, D, None, delta_bias, softplus)
    _check("selective_scan_2d", backend, scan, _AXES_2D)
    channels, height, width = u.shape[1:]
    u, delta, B, C = (each.flatten(-2) for each in (u, delta, B, C))
    order = _four_orders(height, width, u.device)
    name = choice(u) if backend == "auto" else backend
    if name in ORDERED:
        y = ORDERED[name](scan._replace(u=u.unsqueeze(1), delta=delta, B=B, C=C), order)
    else:
        delta, B, C = (each.take_along_dim(order[None, :, None], dim=3) for each in (delta, B, C))
        reads = u.to(naive.state_dtype(u))[:, :, order].transpose(1, 2)  # the four are added up before they are rounded
        y = BACKENDS[name](scan._replace(u=reads.flatten(1, 2), delta=delta.flatten(1, 2), B=B, C=C))
        back = order.argsort(dim=1)[None, :, None]
        y = y.unflatten(1, (4, channels)).take_along_dim(back, dim=3).sum(dim=1).to(u.dtype)
    return op.reshaped(y, len(u), channels, height, width)


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


_AXES, _AXES_2D = axes_of(selective_scan), axes_of(selective_scan_2d)


def _check(function: str, backend: str, scan: Scan, axes: Axes) -> None:
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"{function}: backend={backend!r}; expected auto or one of {', '.join(BACKENDS)}")
    check(function, scan._asdict(), axes)
