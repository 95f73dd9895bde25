"""Mean patch vector of a study."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.config import PieceConfig
from rrg.masked import masked_mean


class Pooled(NamedTuple):
    visual_mean: Float[Tensor, "batch vision"]


class Pool(nn.Module):
    """Mean over the patches of the films that a study has; no parameters."""

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Pooled:
        return Pooled(masked_mean(patch_tokens, patch_mask))
