"""VDGen's vision self-equilibration (section 3.2, eq. 3)."""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.config import LossConfig
from rrg.contrast import Temperature, products
from rrg.masked import masked, masked_mean


class VSEConfig(LossConfig):
    self_pair: Literal["positive", "decoupled"] = Field(
        "positive",
        description="as printed, S_ii = -inf and eq. 3 takes log exp(S_ii), ill-posed; not stated in the paper which "
        "is meant. positive: S_ii is kept; decoupled: left out of the denominator alone, unbounded below unless "
        "normalize = true",
    )
    temperature: float = Field(0.07, gt=0, description="τ; not stated in the paper")
    learnable: bool = Field(False, description="whether τ is learnt, as its logarithm; not stated in the paper")
    normalize: bool = Field(False, description="S by cosines instead of inner products; the paper has inner products")
    expansion: int = Field(2, ge=1, description="width of z over that of h; not stated in the paper")


class VSE(nn.Module):
    """L = -1/B Σ_i log(exp(S_ii) / Σ_j exp(S_ij)), S_ij = z_i · z_j / τ, z = W h + b, h the mean of LN(x) over patches.

    A batch of one study has nothing to be told apart from: its loss is 0 by either reading.
    """

    order_invariant = True

    def __init__(self, config: VSEConfig, axes: Axes) -> None:
        super().__init__()
        self.self_pair, self.normalize = config.self_pair, config.normalize
        self.norm = nn.LayerNorm(axes.vision)
        self.project = nn.Linear(axes.vision, config.expansion * axes.vision)
        self.temperature = Temperature(config.temperature, config.learnable)

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Float[Tensor, ""]:
        z = self.project(masked_mean(self.norm(masked(patch_tokens, patch_mask)), patch_mask)).float()
        z = F.normalize(z, dim=-1) if self.normalize else z
        return self.of(self.temperature(products(z, z)))

    def of(self, similarity: Tensor) -> Tensor:
        """Eq. 3 of S (batch batch)."""
        itself = torch.eye(len(similarity), dtype=torch.bool, device=similarity.device)
        among = similarity
        if self.self_pair == "decoupled" and len(similarity) > 1:
            among = similarity.masked_fill(itself, -torch.inf)
        return (among.logsumexp(dim=1) - similarity.diagonal()).mean()
