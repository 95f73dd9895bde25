"""Contrastive losses over a batch, as several papers need them (InfoNCE, van den Oord et al. 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Temperature(nn.Module):
    """similarity / τ. τ is kept as its logarithm, so that it stays positive where it is learnt."""

    def __init__(self, value: float, learnable: bool) -> None:
        super().__init__()
        log = torch.tensor([value]).log()
        if learnable:
            self.log = nn.Parameter(log)
        else:
            self.register_buffer("log", log)

    def forward(self, similarity: Tensor) -> Tensor:
        return similarity.float() / self.log.float().exp()


def products(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of rows, (batch width) each, in float32 under autocast too: what sets films apart is small."""
    with torch.autocast("cpu" if a.is_meta else a.device.type, enabled=False):
        return a.float() @ b.float().T


def info_nce(logits: Tensor) -> Tensor:
    """-1/B Σ_i log(exp(l_ii) / Σ_j exp(l_ij)) of logits (batch batch): row i's own column among all."""
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
