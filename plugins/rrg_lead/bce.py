"""LEAD's classification loss (eq. 4) with its weight (eq. 5)."""

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.config import LossConfig


class BCEConfig(LossConfig):
    weight: float = Field(4.0, description="λ of eq. 5")
    uncertain: Literal["negative", "positive", "ignore"] = Field(
        "negative", description="how a label of -1 counts; not stated in the paper"
    )
    unmentioned: Literal["negative", "ignore"] = Field(
        "negative", description="how an observation that the report does not mention counts; not stated in the paper"
    )


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
        uncertain, unmentioned = disease_labels == -1, disease_labels.isnan()
        target = torch.where(uncertain, float(self.config.uncertain == "positive"), disease_labels).nan_to_num(0.0)
        scored = torch.ones_like(target)
        if self.config.uncertain == "ignore":
            scored = scored.masked_fill(uncertain, 0.0)
        if self.config.unmentioned == "ignore":
            scored = scored.masked_fill(unmentioned, 0.0)
        each = F.binary_cross_entropy_with_logits(disease_logits.float(), target, reduction="none")
        return (each * scored).sum(dim=1).mean()
