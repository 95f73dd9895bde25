"""Core's plain connector: one linear layer and LayerNorm from patch features to the language model's width."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.config import PieceConfig
from rrg.masked import masked


class ConnectorConfig(PieceConfig):
    dropout: float = Field(0.0, ge=0, lt=1, description="on the visual prefix, in training")


class Prefix(NamedTuple):
    visual_embeds: Float[Tensor, "batch slots host"]
    visual_mask: Bool[Tensor, "batch slots"]


class Connector(nn.Module):
    """visual_embeds = LN(Linear(patch_tokens)); one slot per patch, of zeros projected where there is none."""

    def __init__(self, config: ConnectorConfig, axes: Axes) -> None:
        super().__init__()
        self.project = nn.Linear(axes.vision, axes.host)
        self.norm = nn.LayerNorm(axes.host)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Prefix:
        return Prefix(self.dropout(self.norm(self.project(masked(patch_tokens, patch_mask)))), patch_mask)
