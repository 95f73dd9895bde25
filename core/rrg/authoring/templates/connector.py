"""LLaVA-1.5's connector (Liu et al., "Improved baselines with visual instruction tuning", CVPR 2024)."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.config import PieceConfig


class Prefix(NamedTuple):
    visual_embeds: Float[Tensor, "batch slots host"]
    visual_mask: Bool[Tensor, "batch slots"]


class MLP(nn.Module):
    """visual_embeds = Linear(GELU(Linear(patch_tokens))), both layers of the host's width; one slot per patch."""

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()
        self.first = nn.Linear(axes.vision, axes.host)
        self.second = nn.Linear(axes.host, axes.host)
        self.gelu = nn.GELU()

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Prefix:
        kept = patch_tokens.masked_fill(~patch_mask.unsqueeze(-1), 0.0)  # attention times 0 would keep a NaN
        return Prefix(self.second(self.gelu(self.first(kept))), patch_mask)
