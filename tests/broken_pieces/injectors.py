"""Broken injectors."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from broken_pieces.table import APPLY_TO, PREPARE, breaks
from rrg.axes import Axes
from rrg.config import InjectorConfig
from rrg.model.inject import Injection, LayerPieces


class Shift(nn.Module):
    """A sound injector: hidden plus a projection of the logits."""

    def __init__(self, config: InjectorConfig, axes: Axes, layer: int, first: Any) -> None:
        super().__init__()
        self.layer = layer
        self.project = nn.Linear(axes.diseases, axes.host)

    def forward(
        self, hidden: Float[Tensor, "batch text host"], disease_logits: Float[Tensor, "batch diseases"]
    ) -> Float[Tensor, "batch text host"]:
        return self.shift(hidden, torch.tanh(self.project(disease_logits)).unsqueeze(1))

    def shift(self, hidden: Tensor, value: Tensor) -> Tensor:
        return hidden + value


@breaks("causal", "injector")
class MeanOfAllTokens(Shift):
    def shift(self, hidden: Tensor, value: Tensor) -> Tensor:
        return hidden + value + hidden.mean(dim=1, keepdim=True)


class Value(NamedTuple):
    value: Float[Tensor, "batch host"]


@breaks("layers", "injector")
class LayerBefore(Shift):
    """Each layer acts with what the layer before it prepared."""

    last: dict[int, Tensor] = {}  # noqa: RUF012

    def prepare(self, disease_logits: Float[Tensor, "batch diseases"]) -> Value:
        own = torch.tanh(self.project(disease_logits))
        LayerBefore.last[self.layer] = own.detach()
        before = LayerBefore.last.get(self.layer - 1)
        return Value(own if before is None or before.shape != own.shape else before)

    def forward(
        self, hidden: Float[Tensor, "batch text host"], value: Float[Tensor, "batch host"]
    ) -> Float[Tensor, "batch text host"]:
        return hidden + value.unsqueeze(1)


@breaks("closed", "injector")
class NearlyClosed(Shift):
    factor = 1.0

    def close(self) -> None:
        self.factor = 0.05

    def shift(self, hidden: Tensor, value: Tensor) -> Tensor:
        return hidden + self.factor * value


@breaks("cached", "injector")
class PromptAlone(Shift):
    def shift(self, hidden: Tensor, value: Tensor) -> Tensor:
        return hidden if hidden.shape[1] == 1 else hidden + value


@breaks("beams", "injector")
class RowsMixedInLargeBatches(Shift):
    def shift(self, hidden: Tensor, value: Tensor) -> Tensor:
        return hidden + (5 * value.roll(3, dims=0) if len(value) > 3 else value)


@breaks("checkpointing", "injector")
class OtherEachTime(Shift):
    calls = 0

    def shift(self, hidden: Tensor, value: Tensor) -> Tensor:
        self.calls += self.training
        return hidden + value * (1 + self.calls)


@breaks("after_lora", "injector")
class NamedAsAnAdapter(Shift):
    def __init__(self, config: InjectorConfig, axes: Axes, layer: int, first: Any) -> None:
        super().__init__(config, axes, layer, first)
        self.lora_project = nn.Linear(axes.diseases, axes.host)

    def forward(
        self, hidden: Float[Tensor, "batch text host"], disease_logits: Float[Tensor, "batch diseases"]
    ) -> Float[Tensor, "batch text host"]:
        return super().forward(hidden, disease_logits) + self.lora_project(disease_logits).unsqueeze(1)


def tag_and_prepare(injection: Injection, signals: Any) -> None:
    for layer in injection.layers:
        layer.register_buffer("tag", torch.zeros(1))
    PREPARE(injection, signals)


@breaks("base_keys", "injector")
class AddsABuffer(Shift):
    def __init__(self, config: InjectorConfig, axes: Axes, layer: int, first: Any) -> None:
        super().__init__(config, axes, layer, first)
        Injection.prepare = tag_and_prepare


@breaks("order", "injector")
class LastActsFirst(Shift):
    def __init__(self, config: InjectorConfig, axes: Axes, layer: int, first: Any) -> None:
        super().__init__(config, axes, layer, first)
        LayerPieces.apply_to = lambda pieces, side, *args: APPLY_TO(pieces, dict(reversed(side.items())), *args)
