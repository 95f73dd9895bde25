"""LEAD's layer-wise projection and context-adaptive gated fusion (sections 2.3.2 and 2.3.3)."""

from typing import Literal, NamedTuple, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from rrg.axes import Axes
from rrg.config import InjectorConfig
from rrg.ops.gated_fusion import expert_half, gated_fusion


class GateConfig(InjectorConfig):
    projection: Literal["layer", "shared"] = Field(
        "layer", description="φ: one MLP per layer, or one for all (table 4)"
    )
    fusion: Literal["gate", "add"] = Field("gate", description="eq. 2, or h + e^l (table 4)")
    width: int = Field(512, ge=1, description="hidden width of φ; not stated in the paper")
    rank: int = Field(0, ge=0, description="rank of the gate's weight, 0: full, 2·d² values a layer; not in the paper")
    bias: float = Field(
        -4.0, description="where the gate starts: σ(-4) = 0.018, nearly closed; not stated in the paper"
    )


class Prepared(NamedTuple):
    layer_embedding: Float[Tensor, "batch host"]
    expert_half: Float[Tensor, "batch host"]


class Gate(nn.Module):
    """One decoder layer's share.

    e^l = φ^l(e); g = σ(W[h; e^l] + b), a value per channel (eq. 1); h' = (1 - g) ⊙ h + g ⊙ e^l (eq. 2).
    The gate's input is split, W[h; e^l] = W_h h + W_e e^l: the second half is one row per study, computed once.
    """

    def __init__(self, config: GateConfig, axes: Axes, layer: int, first: Self | None) -> None:
        super().__init__()
        self.fusion = config.fusion
        if first is not None and config.projection == "shared":
            self.project = first.project
        else:
            self.project = nn.Sequential(
                nn.Linear(axes.host, config.width), nn.GELU(), nn.Linear(config.width, axes.host)
            )
        if self.gated:
            inner = config.rank or axes.host
            self.gate_hidden = nn.Linear(axes.host, inner, bias=False)
            self.gate_expert = nn.Linear(axes.host, inner, bias=False)
            self.gate_up = nn.Linear(inner, axes.host, bias=False) if config.rank else nn.Identity()
            self.gate_bias = nn.Parameter(torch.full((axes.host,), config.bias))
            # From zero, so that the gate starts at σ(bias) on every host, however large its hidden states are.
            for start in (self.gate_up,) if config.rank else (self.gate_hidden, self.gate_expert):
                nn.init.zeros_(start.weight)

    @property
    def gated(self) -> bool:
        return self.fusion == "gate"

    @property
    def _up(self) -> Tensor | None:
        return self.gate_up.weight if isinstance(self.gate_up, nn.Linear) else None

    def close(self) -> None:
        """Make the layer's share the identity: σ(-∞) = 0."""
        self.gate_bias.data.fill_(-torch.inf)

    def prepare(self, expert_embedding: Float[Tensor, "batch host"]) -> Prepared:
        embedding = self.project(expert_embedding)
        if self.fusion == "add":
            return Prepared(embedding, embedding)
        return Prepared(embedding, expert_half(embedding, self.gate_expert.weight, self.gate_bias, self._up))

    def gate(
        self,
        hidden: Float[Tensor, "batch text host"],
        layer_embedding: Float[Tensor, "batch host"],
        expert_half: Float[Tensor, "batch host"],
    ) -> Float[Tensor, "batch text host"]:
        """g of eq. 1 for what `forward` takes, to look at: the share of e^l in h'. It is there where `gated`."""
        return torch.sigmoid(self.gate_up(self.gate_hidden(hidden)) + expert_half.unsqueeze(1))

    def forward(
        self,
        hidden: Float[Tensor, "batch text host"],
        layer_embedding: Float[Tensor, "batch host"],
        expert_half: Float[Tensor, "batch host"],
    ) -> Float[Tensor, "batch text host"]:
        if self.fusion == "add":
            return hidden + layer_embedding.unsqueeze(1).to(hidden.dtype)
        return gated_fusion(hidden, layer_embedding, expert_half, self.gate_hidden.weight, self._up)
