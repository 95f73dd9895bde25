"""LEAD's classification loss (eq. 4) with its weight (eq. 5)."""

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.targets import TargetConfig, binary_cross_entropy


class BCEConfig(TargetConfig):
    weight: float = Field(4.0, description="λ of eq. 5")


class BCE(nn.Module):
    """L_cls = -Σ_i [c_i log ĉ_i + (1 - c_i) log(1 - ĉ_i)], summed over observations, mean over the batch."""

    order_invariant = True

    def __init__(self, config: BCEConfig, axes: Axes) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        disease_logits: Float[Tensor, "batch diseases"],
        disease_labels: Float[Tensor, "batch diseases"],
    ) -> Float[Tensor, ""]:
        each, _ = binary_cross_entropy(disease_logits, disease_labels, self.config)
        return each.sum(dim=1).mean()
