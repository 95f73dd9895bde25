"""Focal loss: confident observations count little (Lin et al., "Focal loss for dense object detection", ICCV 2017)."""

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.config import LossConfig


class FocalConfig(LossConfig):
    gamma: float = Field(2.0, ge=0, description="how little confident observations count; 0: plain cross-entropy")


class Focal(nn.Module):
    """Mean of -(1 - p)^gamma · log p (eq. 4) over the observations labelled 0 or 1, p the chance of the label."""

    def __init__(self, config: FocalConfig, axes: Axes) -> None:
        super().__init__()
        self.gamma = config.gamma

    def forward(
        self, disease_logits: Float[Tensor, "batch diseases"], disease_labels: Float[Tensor, "batch diseases"]
    ) -> Float[Tensor, ""]:
        x = torch.where(disease_labels == 1, disease_logits, -disease_logits).float()  # p = σ(x)
        loss = -(self.gamma * F.logsigmoid(-x)).exp() * F.logsigmoid(x)
        stated = (disease_labels == 0) | (disease_labels == 1)
        return loss.masked_fill(~stated, 0.0).sum() / stated.sum().clamp(min=1)
