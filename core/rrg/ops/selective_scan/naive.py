"""The selective scan as a loop over time: the specification that every other backend is judged against.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), section 3: eq. 2a and 2b with the
selection of algorithm 2. As in its published code, A is discretised by zero-order hold (eq. 4) and B by Euler's rule.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def state_dtype(u: Tensor) -> torch.dtype:
    """float32 whatever the inputs are, so that a long sum of bfloat16 terms keeps its digits; float64 for float64."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


class Scan(NamedTuple):
    """What a backend is given; shapes as in `rrg.ops.selective_scan`."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    softplus: bool


def selective_scan(scan: Scan) -> Tensor:
    """Δ = softplus(delta + delta_bias); h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t with h_0 = 0; y_t = C_t · h_t + D u_t.

    The result is y, or y · silu(z), of u's shape.
    """
    u, delta, A, B, C, D, z, delta_bias, softplus = scan
    dtype = state_dtype(u)
    repeats = u.shape[1] // B.shape[1]
    x, step, A = u.to(dtype), delta.to(dtype), A.to(dtype)
    B, C = (each.to(dtype).repeat_interleave(repeats, dim=1) for each in (B, C))  # (batch channels N length)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype).unsqueeze(-1)
    if softplus:
        step = F.softplus(step)
    h, outputs = x.new_zeros(*x.shape[:2], A.shape[1]), []
    for t in range(x.shape[2]):
        step_t = step[:, :, t, None]
        h = (step_t * A).exp() * h + step_t * B[..., t] * x[:, :, t, None]
        outputs.append((C[..., t] * h).sum(dim=-1))
    y = torch.stack(outputs, dim=-1)
    if D is not None:
        y = y + D.to(dtype).unsqueeze(-1) * x
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype)
