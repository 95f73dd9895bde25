"""DAST's classification loss (eq. 4, first term)."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.targets import TargetConfig, binary_targets


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
        target, scored = binary_targets(disease_labels, self.config)
        each = F.binary_cross_entropy_with_logits(disease_logits.float(), target, reduction="none")
        return (each * scored).sum() / scored.sum().clamp(min=1)
