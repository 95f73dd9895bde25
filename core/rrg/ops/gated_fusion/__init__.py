"""LEAD's gated fusion at about the cost of its matrix product: split weights, one autograd function.

W[h; e] + b = W_h h + (W_e e + b). The second half is one row per study, so the caller computes it once and, while
decoding, keeps it. Backward needs the hidden states, which the product keeps anyway, and the gate: one hidden state's
size a layer, where the equations as printed keep four.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def gated_fusion(
    hidden: Float[Tensor, "batch text host"],
    expert: Float[Tensor, "batch host"],
    expert_half: Float[Tensor, "batch host"],
    weight: Float[Tensor, "inner host"],
    up: Float[Tensor, "host inner"] | None = None,
) -> Float[Tensor, "batch text host"]:
    """h' = (1 - g) ⊙ h + g ⊙ e with g = σ(W_h h + expert_half) (LEAD, eq. 1 and 2).

    expert_half: W_e e + b. weight: W_h, square; with `up`, W_h = up · weight, of low rank. The products run in
    autocast's dtype where it is on; the result has the dtype of `hidden`.
    """
    kind = _kind(hidden)
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    fused: Tensor = _GatedFusion.apply(
        hidden,
        expert.to(hidden.dtype),
        expert_half.to(dtype),
        weight.to(dtype),
        None if up is None else up.to(dtype),
    )
    return fused


def _kind(tensor: Tensor) -> str:
    """Whose autocast counts: planning's tensors lie on the meta device, which has none, and count as the CPU's."""
    return "cpu" if tensor.is_meta else tensor.device.type


class _GatedFusion(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, expert: Tensor, half: Tensor, weight: Tensor, up: Tensor | None) -> Tensor:
        with torch.autocast(_kind(hidden), enabled=False):
            inner = hidden.to(weight.dtype) @ weight.T
            gate = inner if up is None else inner @ up.T
            gate.add_(half.unsqueeze(1)).sigmoid_()
            ctx.save_for_backward(hidden, expert, gate, weight, up, None if up is None else inner)
            return torch.lerp(hidden, expert.unsqueeze(1), gate.to(hidden.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, expert, gate, weight, up, inner = ctx.saved_tensors
        with torch.autocast(_kind(hidden), enabled=False):
            taken = upstream * gate
            of_expert = taken.sum(dim=1)
            of_hidden = upstream - taken
            of_gate = torch.sub(expert.unsqueeze(1), hidden).mul_(upstream)
            of_sum = torch.ops.aten.sigmoid_backward(of_gate.to(gate.dtype), gate)
            of_half = of_sum.sum(dim=1)
            rows = of_sum.flatten(0, 1)
            of_up = rows.T @ inner.flatten(0, 1) if up is not None and ctx.needs_input_grad[4] else None
            rows = rows if up is None else rows @ up
            of_weight = rows.T @ hidden.flatten(0, 1).to(rows.dtype) if ctx.needs_input_grad[3] else None
            if rows.dtype == of_hidden.dtype:
                of_hidden.view(-1, hidden.shape[-1]).addmm_(rows, weight)
            else:
                of_hidden = of_hidden + (rows @ weight).view_as(of_hidden)
        return of_hidden, of_expert, of_half, of_weight, of_up
