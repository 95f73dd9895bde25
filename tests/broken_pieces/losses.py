"""Broken losses."""

import weakref

import torch
from jaxtyping import Float
from pydantic import field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from broken_pieces.table import breaks
from rrg.axes import Axes
from rrg.config import LossConfig


class Loss(nn.Module):
    """A sound loss, of every study alone."""

    order_invariant = True

    def __init__(self, config: LossConfig, axes: Axes) -> None:
        super().__init__()

    def forward(self, disease_logits: Float[Tensor, "batch diseases"]) -> Float[Tensor, ""]:
        return self.loss(disease_logits)

    def loss(self, x: Tensor) -> Tensor:
        return x.float().square().mean()


@breaks("one_study", "loss")
class DeviationOverTheBatch(Loss):
    def loss(self, x: Tensor) -> Tensor:
        return (x.float() - x.float().mean(dim=0)).square().sum() / (len(x) - 1)


@breaks("order_of_batch", "loss")
class FirstCountsMost(Loss):
    def loss(self, x: Tensor) -> Tensor:
        weight = torch.arange(len(x), 0, -1, device=x.device).unsqueeze(1)
        return (x.float().square() * weight).mean()


class AtLeast(LossConfig):
    @field_validator("weight")
    @classmethod
    def _some(cls, value: float) -> float:
        return max(value, 0.1)


@breaks("weight_zero", "loss")
class NeverQuiet(Loss):
    def __init__(self, config: AtLeast, axes: Axes) -> None:
        super().__init__(config, axes)


SEEN: list[weakref.ref[Tensor]] = []  # what any dropout layer has put out, as long as somebody holds it


@breaks("reads_only", "loss")
class ListensToEverybody(Loss):
    def __init__(self, config: LossConfig, axes: Axes) -> None:
        super().__init__(config, axes)
        nn.Dropout.forward = lambda layer, x: self.listen(F.dropout(x, layer.p, layer.training))

    def listen(self, x: Tensor) -> Tensor:
        SEEN.append(weakref.ref(x))
        return x

    def loss(self, x: Tensor) -> Tensor:
        heard = [tensor.sum() for ref in SEEN if (tensor := ref()) is not None and tensor.requires_grad]
        return super().loss(x) + sum(0.001 * (value - value.detach()) for value in heard)
