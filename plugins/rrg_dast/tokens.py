"""DAST's disease-aware semantic tokens and their classification heads (stage 1, "DAST Classification")."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from rrg import PieceConfig
from rrg.axes import Axes
from rrg.masked import attend


class TokensConfig(PieceConfig):
    heads: int = Field(8, ge=1, description="of the cross-attention; not stated in the paper")


class Evidence(NamedTuple):
    disease_tokens: Float[Tensor, "batch diseases vision"]
    disease_logits: Float[Tensor, "batch diseases"]


class DiseaseTokens(nn.Module):
    """D = LN(T + CrossAttn(T, V, V)), T one learnable token per observation, V the patches; logit_i = w_i · D_i + b_i.

    The paper states neither the residual nor the norm; without them a token would hold nothing but patches.
    """

    multiples = {"vision": 8}  # noqa: RUF012  heads

    def __init__(self, config: TokensConfig, axes: Axes) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(axes.diseases, axes.vision) * 0.02)
        self.attention = nn.MultiheadAttention(axes.vision, config.heads, batch_first=True)
        self.norm = nn.LayerNorm(axes.vision)
        bound = axes.vision**-0.5  # as nn.Linear starts
        self.weight = nn.Parameter(torch.empty(axes.diseases, axes.vision).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(axes.diseases))

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Evidence:
        queries = self.tokens.expand(len(patch_tokens), -1, -1)
        refined = self.norm(queries + attend(self.attention, queries, patch_tokens, patch_mask))
        return Evidence(refined, (refined * self.weight).sum(dim=-1) + self.bias)
