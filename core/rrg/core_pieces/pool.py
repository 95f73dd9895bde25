"""Mean patch vector of a study."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.config import PieceConfig


class Pooled(NamedTuple):
    visual_mean: Float[Tensor, "batch vision"]


class Pool(nn.Module):
    """Mean over the patches of the films that a study has; no parameters."""

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Pooled:
        # A masked patch may hold anything, infinities too: it is put to zero, not multiplied by it.
        kept = patch_tokens.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
        return Pooled(kept.sum(dim=1) / patch_mask.sum(dim=1, keepdim=True).clamp(min=1))
