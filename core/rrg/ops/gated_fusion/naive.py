"""The gated fusion as its paper prints it: the specification that every other form is judged against."""

import torch
from torch import Tensor


def gated_fusion(hidden: Tensor, expert: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LEAD, eq. 1 and 2: g = σ(W[h; e] + b), h' = (1 - g) ⊙ h + g ⊙ e.

    hidden: (batch text host). expert: (batch host). weight: (host 2·host). bias: (host).
    """
    e = expert.unsqueeze(1).expand_as(hidden)
    gate = torch.sigmoid(torch.cat([hidden, e], dim=-1) @ weight.T + bias)
    return (1 - gate) * hidden + gate * e
