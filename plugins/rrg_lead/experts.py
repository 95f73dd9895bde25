"""LEAD's visual expert module (sections 2.2 and 2.3.1)."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from rrg import PieceConfig
from rrg.axes import Axes
from rrg.masked import masked_mean


class ExpertsConfig(PieceConfig):
    hidden: int = Field(512, ge=1, description="width of each expert's first layer; not stated in the paper")
    feature: int = Field(128, ge=1, description="width of f_i, each expert's second layer; not stated in the paper")
    pool: Literal["mean", "max"] = Field("mean", description="over the feature map; not stated in the paper")
    dropout: float = Field(0.0, ge=0, lt=1, description="before each expert's layers; not stated in the paper")


class Evidence(NamedTuple):
    disease_logits: Float[Tensor, "batch diseases"]
    expert_embedding: Float[Tensor, "batch host"]


class Experts(nn.Module):
    """C three-layer MLP classifiers, one per observation, each on the last visual feature map.

    s_i is expert i's logit and f_i its last hidden feature; f̃_i = σ(s_i) · f_i, and e = Linear([f̃_1; …; f̃_C]).
    """

    def __init__(self, config: ExpertsConfig, axes: Axes) -> None:
        super().__init__()
        self.pool = config.pool
        self.first = ExpertLinear(axes.diseases, axes.vision, config.hidden)
        self.second = ExpertLinear(axes.diseases, config.hidden, config.feature)
        self.third = ExpertLinear(axes.diseases, config.feature, 1)
        self.embed = nn.Linear(axes.diseases * config.feature, axes.host)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Evidence:
        x = self.dropout(self._pooled(patch_tokens, patch_mask)).unsqueeze(1)  # (batch, 1, vision): one copy per expert
        x = self.dropout(F.gelu(self.first(x)))
        feature = F.gelu(self.second(x))  # f_i: (batch, diseases, feature)
        logits = self.third(feature).squeeze(-1)
        weighted = torch.sigmoid(logits).unsqueeze(-1) * feature
        return Evidence(logits, self.embed(weighted.flatten(1)))

    def _pooled(self, tokens: Tensor, mask: Tensor) -> Tensor:
        if self.pool == "mean":
            return masked_mean(tokens, mask)
        kept = tokens.masked_fill(~mask.unsqueeze(-1), torch.finfo(tokens.dtype).min)
        return torch.where(mask.any(dim=1, keepdim=True), kept.amax(dim=1), 0.0)


class ExpertLinear(nn.Module):
    """One linear layer per expert, as a single batched product: (batch, 1 or experts, in) to (batch, experts, out)."""

    def __init__(self, experts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5  # as nn.Linear starts
        self.weight = nn.Parameter(torch.empty(experts, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(experts, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bei,eio->beo", x.expand(-1, self.weight.shape[0], -1), self.weight) + self.bias
