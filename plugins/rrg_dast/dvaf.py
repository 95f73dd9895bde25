"""DAST's disease-visual attention fusion (eq. 5 to 7) and the two fusions that table 5 puts in its place."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from rrg import PieceConfig
from rrg.axes import Axes
from rrg.masked import attend, masked, masked_mean


class DVAFConfig(PieceConfig):
    fusion: Literal["dvaf", "concatenation", "mean"] = Field(
        "dvaf",
        description="table 5: eq. 5 and 6, the disease tokens as they are, or the mean of patches and disease tokens; "
        "the last two are not stated beyond their names",
    )
    heads: int = Field(8, ge=1, description="of both attentions; not stated in the paper")


class Prefix(NamedTuple):
    visual_embeds: Float[Tensor, "batch slots host"]
    visual_mask: Bool[Tensor, "batch slots"]


class DVAF(nn.Module):
    """Ṽ = [V; f], and LN(Linear(Ṽ)) (eq. 7): the patches V and one fused token, so slots = patches + 1.

    d = AttnPool(SelfAttn(CrossAttn(D, V))) (eq. 5), D the disease tokens; v̄ = mean V;
    g = σ(W[d; v̄] + b), a value per channel; f = g ⊙ d + (1 - g) ⊙ v̄ (eq. 6).
    With `concatenation` Ṽ = [V; D]; with `mean` f is the mean of V and D.
    """

    multiples = {"vision": 8}  # noqa: RUF012  heads

    def __init__(self, config: DVAFConfig, axes: Axes) -> None:
        super().__init__()
        self.fusion = config.fusion
        if config.fusion == "dvaf":
            self.cross = nn.MultiheadAttention(axes.vision, config.heads, batch_first=True)
            self.self_attention = nn.MultiheadAttention(axes.vision, config.heads, batch_first=True)
            self.pool = nn.Linear(axes.vision, 1, bias=False)  # a bias would cancel in the softmax
            self.gate = nn.Linear(2 * axes.vision, axes.vision)
        self.project = nn.Linear(axes.vision, axes.host)
        self.norm = nn.LayerNorm(axes.host)

    def forward(
        self,
        patch_tokens: Float[Tensor, "batch patches vision"],
        patch_mask: Bool[Tensor, "batch patches"],
        disease_tokens: Float[Tensor, "batch diseases vision"],
    ) -> Prefix:
        kept = masked(patch_tokens, patch_mask)
        added = self.added(kept, patch_mask, disease_tokens)
        mask = torch.cat([patch_mask, patch_mask.new_ones(added.shape[:2])], dim=1)
        return Prefix(self.norm(self.project(torch.cat([kept, added], dim=1))), mask)

    def added(self, kept: Tensor, mask: Tensor, disease_tokens: Tensor) -> Tensor:
        """What follows the patches: (batch 1 vision), or all tokens for `concatenation`."""
        if self.fusion == "concatenation":
            return disease_tokens
        if self.fusion == "mean":
            everything = torch.cat([kept, disease_tokens], dim=1)
            there = torch.cat([mask, mask.new_ones(disease_tokens.shape[:2])], dim=1)
            return masked_mean(everything, there).unsqueeze(1)
        found = attend(self.cross, disease_tokens, kept, mask)
        found = self.self_attention(found, found, found, need_weights=False)[0]
        disease = (self.pool(found).softmax(dim=1) * found).sum(dim=1)
        visual = masked_mean(kept, mask)
        gate = torch.sigmoid(self.gate(torch.cat([disease, visual], dim=-1)))
        return self.fuse(gate, disease, visual).unsqueeze(1)

    @staticmethod
    def fuse(gate: Tensor, disease: Tensor, visual: Tensor) -> Tensor:
        """Eq. 6."""
        return gate * disease + (1 - gate) * visual
