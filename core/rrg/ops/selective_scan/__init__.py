"""The selective scan (S6) of Mamba: one function, several backends that compute the same."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from rrg.errors import UsageError
from rrg.ops.selective_scan import chunked, cpu, naive

BACKENDS: dict[str, Callable[..., Tensor]] = {
    "naive": naive.selective_scan,
    "chunked": chunked.selective_scan,
    "cpu": cpu.selective_scan,
}


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
    backend: Literal["auto", "naive", "chunked", "cpu"] = "auto",
) -> Float[Tensor, "batch channels length"]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t · h_t + D u_t, with Δ = softplus(delta + delta_bias).

    Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), eq. 2a, 2b and 4; with z the
    result is y · silu(z). Channels come in `groups` equal parts, each with its own B and C. A ≤ 0 keeps the state
    bounded. The state is float32, or float64 for float64 u; the result has u's dtype. Every tensor gets a gradient.
    `auto` is the fastest backend for the tensors given, as `choice` says; `cpu` needs numba.

    Raises UsageError for an unknown backend, and for shapes or dtypes that do not fit.
    """
    if backend != "auto" and backend not in BACKENDS:
        raise UsageError(f"selective_scan: backend={backend!r}; expected auto or one of {', '.join(BACKENDS)}")
    _check({"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias})
    return BACKENDS[choice(u) if backend == "auto" else backend](u, delta, A, B, C, D, z, delta_bias, softplus)


def choice(u: Tensor) -> Literal["chunked", "cpu"]:
    """The backend that `auto` takes."""
    return "cpu" if u.device.type == "cpu" and cpu.AVAILABLE else "chunked"


def _check(given: dict[str, Tensor | None]) -> None:
    tensors = {name: tensor for name, tensor in given.items() if tensor is not None}
    for name, axes in (("u", 3), ("A", 2), ("B", 4)):  # these say the sizes
        if tensors[name].ndim != axes or 0 in tensors[name].shape[1:]:
            shape = tuple(tensors[name].shape)
            raise UsageError(f"selective_scan: {name} is {shape}; expected {axes} axes, none empty but the batch")
    batch, channels, length = tensors["u"].shape
    states, groups = tensors["A"].shape[1], tensors["B"].shape[1]
    long, grouped = (batch, channels, length), (batch, groups, states, length)
    shapes: dict[str, tuple[int, ...]] = {"u": long, "delta": long, "A": (channels, states), "B": grouped, "C": grouped}
    shapes |= {"D": (channels,), "z": long, "delta_bias": (channels,)}
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name]:
            raise UsageError(f"selective_scan: {name} is {tuple(tensor.shape)}; the others ask for {shapes[name]}")
        if not tensor.is_floating_point():
            raise UsageError(f"selective_scan: {name} is {tensor.dtype}; expected floating-point numbers")
    if channels % groups:
        raise UsageError(f"selective_scan: {groups} groups of B and C do not divide {channels} channels of u")
