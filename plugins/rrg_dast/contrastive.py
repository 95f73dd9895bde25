"""DAST's alignment of films and reports (eq. 3)."""

from typing import Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.config import LossConfig
from rrg.contrast import Temperature, info_nce, products


class ContrastiveConfig(LossConfig):
    direction: Literal["both", "image-to-text"] = Field(
        "both", description="who is told apart: films and reports, or films alone; not stated in the paper's text"
    )
    temperature: float = Field(0.07, gt=0, description="where τ starts; not stated in the paper")
    learnable: bool = Field(True, description="whether τ is learnt, as its logarithm; not stated in the paper")


class Contrastive(nn.Module):
    """InfoNCE: -log(exp(cos(v̄_i, t_i) / τ) / Σ_j exp(cos(v̄_i, t_j) / τ)), mean over the batch (eq. 3).

    v̄ is the mean patch vector, t = W r + b with r the report's vector from the composition's text encoder. The paper is
    silent on W; without it the two widths, 768 for Bio-ClinicalBERT and the encoder's own, need not agree.
    """

    order_invariant = True

    def __init__(self, config: ContrastiveConfig, axes: Axes) -> None:
        super().__init__()
        self.both = config.direction == "both"
        self.project = nn.Linear(axes.language, axes.vision)
        self.temperature = Temperature(config.temperature, config.learnable)

    def forward(
        self, visual_mean: Float[Tensor, "batch vision"], report_embed: Float[Tensor, "batch language"]
    ) -> Float[Tensor, ""]:
        films = F.normalize(visual_mean.float(), dim=-1)
        reports = F.normalize(self.project(report_embed).float(), dim=-1)
        logits = self.temperature(products(films, reports))
        return (info_nce(logits) + info_nce(logits.T)) / 2 if self.both else info_nce(logits)
