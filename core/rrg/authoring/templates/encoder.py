"""Gated attention pooling (Ilse et al., "Attention-based deep multiple instance learning", ICML 2018)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.config import PieceConfig


class AttentionConfig(PieceConfig):
    width: int = Field(128, ge=1, description="rows of V and U")


class Pooled(NamedTuple):
    visual_mean: Float[Tensor, "batch vision"]
    disease_logits: Float[Tensor, "batch diseases"]


class Attention(nn.Module):
    """z = Σ_k a_k h_k over the patches (eq. 7), a = softmax_k(wᵀ(tanh(V h_k) ⊙ σ(U h_k))) (eq. 9); logits Linear(z).

    A study's films are one bag of patches; a study without any has z = 0.
    """

    def __init__(self, config: AttentionConfig, axes: Axes) -> None:
        super().__init__()
        self.v = nn.Linear(axes.vision, config.width, bias=False)
        self.u = nn.Linear(axes.vision, config.width, bias=False)
        self.w = nn.Linear(config.width, 1, bias=False)
        self.classify = nn.Linear(axes.vision, axes.diseases)

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Pooled:
        absent = ~patch_mask.unsqueeze(-1)
        h = patch_tokens.masked_fill(absent, 0.0)  # a masked patch may hold anything, infinities too
        scores = self.w(torch.tanh(self.v(h)) * torch.sigmoid(self.u(h))).float()
        attention = scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(dim=1).to(h.dtype)
        z = (attention * h).sum(dim=1)
        return Pooled(z, self.classify(z))
