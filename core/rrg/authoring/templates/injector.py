"""FiLM: feature-wise linear modulation (Perez et al., AAAI 2018), here of the language model by the disease logits."""

from typing import NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.config import InjectorConfig


class Prepared(NamedTuple):
    scale: Float[Tensor, "batch host"]
    shift: Float[Tensor, "batch host"]


class FiLM(nn.Module):
    """One decoder layer's share: h' = (1 + scale) ⊙ h + shift (eq. 2), [scale; shift] = Linear(σ(logits)) (eq. 1)."""

    def __init__(self, config: InjectorConfig, axes: Axes, layer: int, first: Self | None) -> None:
        super().__init__()
        self.linear = nn.Linear(axes.diseases, 2 * axes.host)
        self.close()  # training starts from the language model as it is

    def close(self) -> None:
        """Make it the identity, which rrg test checks bit for bit."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def prepare(self, disease_logits: Float[Tensor, "batch diseases"]) -> Prepared:
        """Computed once per study, not once per token."""
        scale, shift = self.linear(torch.sigmoid(disease_logits)).chunk(2, dim=-1)
        return Prepared(scale, shift)

    def forward(
        self,
        hidden: Float[Tensor, "batch text host"],
        scale: Float[Tensor, "batch host"],
        shift: Float[Tensor, "batch host"],
    ) -> Float[Tensor, "batch text host"]:
        return (hidden * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)).to(hidden.dtype)
