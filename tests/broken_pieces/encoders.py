"""Broken encoders: what every module promises."""

import itertools
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional as F

from broken_pieces.table import breaks
from rrg.axes import Axes
from rrg.config import PieceConfig


class Logits(NamedTuple):
    disease_logits: Float[Tensor, "batch diseases"]


class Heads(nn.Module):
    """A sound encoder: one linear layer from the mean patch to the observations."""

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()
        self.linear = nn.Linear(axes.vision, axes.diseases)

    def forward(self, visual_mean: Float[Tensor, "batch vision"]) -> Logits:
        return Logits(self.logits(visual_mean))

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(x)


@breaks("contract", "encoder")
class NotAnnotated(Heads):
    def forward(self, visual_mean) -> Logits:  # type: ignore[no-untyped-def]
        return Logits(self.logits(visual_mean))


@breaks("planned", "encoder")
class LooksIntoValues(Heads):
    def logits(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum().item() < 1e9 else self.linear(-x)


@breaks("builds", "encoder")
class RealOnMeta(Heads):
    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__(config, axes)
        self.linear.bias = nn.Parameter(torch.zeros(axes.diseases, device="cpu"))


@breaks("shapes", "encoder")
class OneMore(Heads):
    def logits(self, x: Tensor) -> Tensor:
        return F.pad(self.linear(x), (0, 1))


@breaks("dtypes", "encoder")
class AlwaysFloat32(Heads):
    def logits(self, x: Tensor) -> Tensor:
        return self.linear(x).float()


@breaks("finite", "encoder")
class Exponential(Heads):
    def logits(self, x: Tensor) -> Tensor:
        return self.linear(x).exp()


@breaks("inputs_kept", "encoder")
class InPlace(Heads):
    def logits(self, x: Tensor) -> Tensor:
        return self.linear(x.clamp_(min=-0.5))


@breaks("deterministic", "encoder")
class DropoutLeftOn(Heads):
    def logits(self, x: Tensor) -> Tensor:
        return F.dropout(self.linear(x), 0.5, training=True)


@breaks("requests", "encoder")
class FirstRequestKept(Heads):
    def logits(self, x: Tensor) -> Tensor:
        self.first = getattr(self, "first", x.mean().detach())
        return self.linear(x) + self.first


@breaks("rows", "encoder")
class OverTheBatch(Heads):
    def logits(self, x: Tensor) -> Tensor:
        return self.linear(x - x.mean(dim=0, keepdim=True))


class Pooled(NamedTuple):
    visual_mean: Float[Tensor, "batch vision"]


class Pool(nn.Module):
    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()

    def forward(
        self, patch_tokens: Float[Tensor, "batch patches vision"], patch_mask: Bool[Tensor, "batch patches"]
    ) -> Pooled:
        kept = patch_tokens.masked_fill(~patch_mask.unsqueeze(-1), 0.0)
        return Pooled(self.pool(patch_tokens, kept, patch_mask.sum(dim=1, keepdim=True)))

    def pool(self, tokens: Tensor, kept: Tensor, count: Tensor) -> Tensor:
        raise NotImplementedError


@breaks("masked", "encoder")
class MaskIgnored(Pool):
    def pool(self, tokens: Tensor, kept: Tensor, count: Tensor) -> Tensor:
        return tokens.mean(dim=1)


@breaks("all_masked", "encoder")
class DividesByNothing(Pool):
    def pool(self, tokens: Tensor, kept: Tensor, count: Tensor) -> Tensor:
        return kept.sum(dim=1) / count


@breaks("gradients", "encoder")
class Unused(Heads):
    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__(config, axes)
        self.unused = nn.Linear(2, 2)


@breaks("no_0d", "encoder")
class ScaleWithoutAxis(Heads):
    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__(config, axes)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


@breaks("saved", "encoder")
class UnregisteredTable(Heads):
    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__(config, axes)
        self.table = torch.randn(axes.diseases)

    def logits(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.table.to(x.dtype)


@breaks("copies", "encoder")
class SharedByCopies(Heads):
    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin


class Uncounted(PieceConfig):
    number: int = Field(default_factory=itertools.count().__next__, exclude=True)


@breaks("config_toml", "encoder")
class SettingThatIsNotWritten(Heads):
    def __init__(self, config: Uncounted, axes: Axes) -> None:
        super().__init__(config, axes)


class Anything(PieceConfig):
    model_config = ConfigDict(extra="ignore")


@breaks("unknown_setting", "encoder")
class TakesAnySetting(Heads):
    def __init__(self, config: Anything, axes: Axes) -> None:
        super().__init__(config, axes)


@breaks("films", "encoder")
class TwoFilmsAlone(nn.Module):
    image_sizes = (32,)

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()

    def forward(
        self,
        pixel_values: Float[Tensor, "batch views channels height width"],
        view_mask: Bool[Tensor, "batch views"],
    ) -> Logits:
        mean = pixel_values.masked_fill(~view_mask[:, :, None, None, None], 0.0).mean(dim=(2, 3, 4))
        if mean.shape[1] == 1:
            raise ValueError("one film")
        return Logits(mean.sum(dim=1, keepdim=True).expand(-1, 14))


@breaks("frozen", "encoder")
class CountsInEvaluation(Heads):
    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__(config, axes)
        self.register_buffer("seen", torch.zeros(1))

    def logits(self, x: Tensor) -> Tensor:
        self.seen += 1
        return self.linear(x)
