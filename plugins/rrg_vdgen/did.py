"""VDGen's disease information distillation (section 3.3, eq. 4 to 6)."""

from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.config import LossConfig
from rrg.contrast import Temperature, info_nce, products
from rrg.masked import masked_mean


class DIDConfig(LossConfig):
    temperature: float = Field(0.07, gt=0, description="τ; not stated in the paper")
    learnable: bool = Field(False, description="whether τ is learnt, as its logarithm; not stated in the paper")


class DID(nn.Module):
    """L = (L_v2t + L_t2v) / 2 (eq. 6): each film finds its report among the batch's, each report its film.

    S_ij = z_img,i · z_text,j, z_img = v̄ / |v̄| with v̄ the mean patch vector (eq. 4), z_text = (W t + b) / |W t + b| with
    t the report's vector, of the composition's text encoder (eq. 5).
    """

    order_invariant = True

    def __init__(self, config: DIDConfig, axes: Axes) -> None:
        super().__init__()
        self.project = nn.Linear(axes.language, axes.vision)
        self.temperature = Temperature(config.temperature, config.learnable)

    def forward(
        self,
        patch_tokens: Float[Tensor, "batch patches vision"],
        patch_mask: Bool[Tensor, "batch patches"],
        report_embed: Float[Tensor, "batch language"],
    ) -> Float[Tensor, ""]:
        films = F.normalize(masked_mean(patch_tokens, patch_mask).float(), dim=-1)
        reports = F.normalize(self.project(report_embed).float(), dim=-1)
        return self.of(products(films, reports))

    def of(self, similarity: Tensor) -> Tensor:
        """Eq. 6 of S (batch batch)."""
        logits = self.temperature(similarity)
        return (info_nce(logits) + info_nce(logits.T)) / 2
