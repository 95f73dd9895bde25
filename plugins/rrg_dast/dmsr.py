"""DAST's dual-modal similarity retrieval (eq. 8)."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.config import RetrieverConfig


class DMSRConfig(RetrieverConfig):
    visual: float = Field(0.5, ge=0, le=1, description="λ, the share of visual similarity; not stated in the paper")


class DMSR(nn.Module):
    """s_j = λ · cos(v̄, v̄_j) + (1 - λ) · cos(p, p_j), with p the disease logits.

    Both cosines are one inner product of [√λ · v̂ ; √(1-λ) · p̂], the key that this module gives.
    """

    unit_keys = True

    def __init__(self, config: DMSRConfig, axes: Axes) -> None:
        super().__init__()
        self.visual = config.visual

    def forward(
        self,
        visual_mean: Float[Tensor, "batch vision"],
        disease_logits: Float[Tensor, "batch diseases"],
    ) -> Float[Tensor, "batch key"]:
        visual = F.normalize(visual_mean.float(), dim=-1) * self.visual**0.5
        disease = F.normalize(disease_logits.float(), dim=-1) * (1 - self.visual) ** 0.5
        return torch.cat([visual, disease], dim=-1)
