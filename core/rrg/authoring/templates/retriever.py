"""Nearest neighbour by visual features (Boag et al., "Baselines for chest X-ray report generation", ML4H 2019)."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.config import PieceConfig


class Cosine(nn.Module):
    """Keys of unit length: their inner product is the cosine of two studies' visual_mean."""

    unit_keys = True  # checked by rrg test

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()

    def forward(self, visual_mean: Float[Tensor, "batch vision"]) -> Float[Tensor, "batch key"]:
        return F.normalize(visual_mean.float(), dim=-1)
