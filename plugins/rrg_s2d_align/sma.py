"""S2D-Align's shallow-to-deep memory adapter (eq. 6) and the connectors that table 4 puts in its place."""

from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from rrg import PieceConfig
from rrg.axes import Axes
from rrg.masked import attend, masked

RG4 = "not stated in the paper's text; LLM-RG4's published value"


class SMAConfig(PieceConfig):
    form: Literal["sma", "separate", "mlp", "q-former", "self-attention"] = Field(
        "sma",
        description="table 4: sma; without shared memory; MLP; MLP and Q-Former; MLP and self-attention. "
        "The last three are not stated beyond their names",
    )
    queries: int = Field(128, ge=1, description=f"vectors of the memory M; {RG4}")
    width: int = Field(768, ge=8, description=f"of the memory's vectors; {RG4}")
    heads: int = Field(8, ge=1, description="of the attention; stated in the paper")
    hidden: int = Field(768, ge=8, description="of the three-layer MLP; not stated in the paper")


class Prefix(NamedTuple):
    visual_embeds: Float[Tensor, "batch slots host"]
    visual_mask: Bool[Tensor, "batch slots"]


class SMA(nn.Module):
    """C1 = SMA_v(v), C2 = [C1; SMA_r(r)], C3 = [C2; SMA_k(k)] along the sequence (eq. 1 to 3), with
    SMA_i(x) = LN(MLP(CrossAttn(M, x, x))) (eq. 6): own weights per modality, one memory M for all.

    The reference report r and the key phrases k are there in training alone; a report is written from C1. The paper
    concatenates "along the channel dimension" once and along the sequence once: only the latter fits a prefix.
    """

    trial: ClassVar = {"queries": 4, "width": 16, "hidden": 16}

    def __init__(self, config: SMAConfig, axes: Axes) -> None:
        super().__init__()
        self.form = config.form
        widths = {"vision": axes.vision} | (
            {"reference": axes.language, "phrase": axes.language} if axes.language else {}
        )
        memories = {"sma": ["shared"], "separate": list(widths), "q-former": list(widths)}.get(config.form, [])
        self.memory = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(config.queries, config.width) * 0.02) for name in memories}
        )
        self.adapters = nn.ModuleDict({name: Adapter(config, width, axes.host) for name, width in widths.items()})

    def forward(
        self,
        patch_tokens: Float[Tensor, "batch patches vision"],
        patch_mask: Bool[Tensor, "batch patches"],
        reference_tokens: Float[Tensor, "batch reference language"] | None = None,
        reference_mask: Bool[Tensor, "batch reference"] | None = None,
        phrase_tokens: Float[Tensor, "batch phrase language"] | None = None,
        phrase_mask: Bool[Tensor, "batch phrase"] | None = None,
    ) -> Prefix:
        contexts = {"vision": (patch_tokens, patch_mask)}
        if reference_tokens is not None and reference_mask is not None:
            contexts["reference"] = (reference_tokens, reference_mask)
        if phrase_tokens is not None and phrase_mask is not None:
            contexts["phrase"] = (phrase_tokens, phrase_mask)
        found = [self._adapt(name, *context) for name, context in contexts.items()]
        return Prefix(
            torch.cat([f.visual_embeds for f in found], dim=1), torch.cat([f.visual_mask for f in found], dim=1)
        )

    def _adapt(self, name: str, tokens: Tensor, mask: Tensor) -> Prefix:
        """One modality's tokens (batch tokens width) to its share of the prefix."""
        memory = self.memory["shared"] if "shared" in self.memory else self.memory.get(name)
        embeds = self.adapters[name](memory, masked(tokens, mask), mask)
        if memory is None:
            return Prefix(embeds, mask)
        return Prefix(embeds, mask.any(dim=1, keepdim=True).expand(embeds.shape[:2]))


class Adapter(nn.Module):
    """One modality's weights, (batch tokens width) to (batch slots host)."""

    def __init__(self, config: SMAConfig, width: int, host: int) -> None:
        super().__init__()
        self.attention: nn.Module | None = None
        if config.form in ("sma", "separate"):
            self.attention = attention(config.width, config.heads, width)
        elif config.form == "q-former":
            self.attention = QFormer(config, width)
        elif config.form == "self-attention":
            self.attention = attention(width, config.heads, width)
        inner = width if config.form in ("mlp", "self-attention") else config.width
        self.mlp = nn.Sequential(
            nn.Linear(inner, config.hidden), nn.GELU(),
            nn.Linear(config.hidden, config.hidden), nn.GELU(),
            nn.Linear(config.hidden, host),
        )  # fmt: skip
        self.norm = nn.LayerNorm(host)

    def forward(self, memory: Tensor | None, tokens: Tensor, mask: Tensor) -> Tensor:
        found = tokens
        if self.attention is not None:
            queries = tokens if memory is None else memory.expand(len(tokens), -1, -1)
            former = isinstance(self.attention, QFormer)
            found = self.attention(queries, tokens, mask) if former else attend(self.attention, queries, tokens, mask)
        result: Tensor = self.norm(self.mlp(found))
        return result


class QFormer(nn.Module):
    """Two layers of Q-Former (Li et al. 2023)."""

    def __init__(self, config: SMAConfig, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(QFormerLayer(config.width, config.heads, width) for _ in range(2))

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layers:
            queries = layer(queries, tokens, mask)
        return queries


class QFormerLayer(nn.Module):
    """Self-attention of the queries, cross-attention to the tokens, feed-forward; each with residual and LayerNorm."""

    def __init__(self, width: int, heads: int, source: int) -> None:
        super().__init__()
        self.itself, self.cross = attention(width, heads, width), attention(width, heads, source)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, queries: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        queries = self.norms[0](queries + self.itself(queries, queries, queries, need_weights=False)[0])
        queries = self.norms[1](queries + attend(self.cross, queries, tokens, mask))
        result: Tensor = self.norms[2](queries + self.mlp(queries))
        return result


def attention(width: int, heads: int, source: int) -> nn.MultiheadAttention:
    return nn.MultiheadAttention(width, heads, kdim=source, vdim=source, batch_first=True)
