"""DAST's classification loss (eq. 4, first term)."""

from jaxtyping import Float
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.targets import TargetConfig, binary_cross_entropy


class Classification(nn.Module):
    """Binary cross-entropy of the heads, mean over what is scored; the paper states neither sum nor mean."""

    order_invariant = True

    def __init__(self, config: TargetConfig, axes: Axes) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        disease_logits: Float[Tensor, "batch diseases"],
        disease_labels: Float[Tensor, "batch diseases"],
    ) -> Float[Tensor, ""]:
        each, scored = binary_cross_entropy(disease_logits, disease_labels, self.config)
        return each.sum() / scored.sum().clamp(min=1)
