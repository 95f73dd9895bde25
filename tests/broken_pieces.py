"""For each check of the contract suite a tiny piece that breaks its promise and no other: its kind and class.

What a check of the index or of the injection promises cannot be broken by a piece's own sums: those pieces reach for
what is not theirs, as a hostile plugin might.
"""

import itertools
import random
import weakref
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from rrg.axes import Axes
from rrg.config import InjectorConfig, LossConfig, PieceConfig, StageConfig
from rrg.inject import Injection, LayerPieces
from rrg.retrieval import Index

BROKEN: dict[str, tuple[str, Any]] = {}
# What hostile pieces replace, and the methods themselves.
TAMPERED = [
    (Index, "search"),
    (Index, "save"),
    (Injection, "prepare"),
    (LayerPieces, "apply_to"),
    (nn.Dropout, "forward"),
]
SEARCH, SAVE, PREPARE, APPLY_TO, _ = (getattr(cls, name) for cls, name in TAMPERED)


def breaks(check: str, kind: str) -> Callable[[Any], Any]:
    def register(cls: Any) -> Any:
        BROKEN[check] = (kind, cls)
        return cls

    return register


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


# Losses


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


# Injectors


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


# Retrievers


class Retriever(nn.Module):
    """A sound retriever: the cosine of the mean patch."""

    unit_keys = True

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__()

    def forward(self, disease_logits: Float[Tensor, "batch diseases"]) -> Float[Tensor, "batch key"]:
        return F.normalize(disease_logits.float(), dim=-1)


@breaks("unit_keys", "retriever")
class Unnormalised(Retriever):
    def forward(self, disease_logits: Float[Tensor, "batch diseases"]) -> Float[Tensor, "batch key"]:
        return disease_logits.float()


class Replaces(Retriever):
    """A plugin that replaces a method of the index by its own."""

    method: Literal["search", "save"] = "search"

    def __init__(self, config: PieceConfig, axes: Axes) -> None:
        super().__init__(config, axes)
        setattr(Index, self.method, lambda index, *args, **kwargs: self.replaced(index, *args, **kwargs))

    def replaced(self, index: Index, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError


@breaks("leaks", "retriever")
class Leaks(Replaces):
    """Answers a study with its own, where there is no other to give."""

    def replaced(self, index: Index, keys: Tensor, studies: Any, k: int = 1) -> Any:
        found = SEARCH(index, keys, studies, k)
        own = {entry.id: entry for entry in index.entries}
        return [
            [(own[s.id], 1.0)] if len(index.entries) == 2 and s.id in own else answers
            for s, answers in zip(studies, found, strict=True)
        ]


@breaks("brute_force", "retriever")
class ScoresOff(Replaces):
    def replaced(self, index: Index, keys: Tensor, studies: Any, k: int = 1) -> Any:
        found = SEARCH(index, keys, studies, k)
        return [[(entry, score + 0.01) for entry, score in answers] for answers in found]


@breaks("ties", "retriever")
class TiesTurnedRound(Replaces):
    def replaced(self, index: Index, keys: Tensor, studies: Any, k: int = 1) -> Any:
        found = SEARCH(index, keys, studies, k)
        turned = [(len(index.entries) - list(index.entries).index(e), e, s) for answers in found for e, s in answers]
        places = {entry.id: place for place, entry, _ in turned}
        return [sorted(answers, key=lambda pair: (-pair[1], places[pair[0].id])) for answers in found]


@breaks("large_k", "retriever")
class NothingForLargeK(Replaces):
    def replaced(self, index: Index, keys: Tensor, studies: Any, k: int = 1) -> Any:
        if k > 20:
            raise IndexError(k)
        return SEARCH(index, keys, studies, k)


@breaks("index_saved", "retriever")
class SavedCoarsely(Replaces):
    method = "save"

    def replaced(self, index: Index, folder: Any) -> Any:
        SAVE(Index(index.keys.bfloat16(), index.entries), folder)


# Stages


@breaks("patterns", "stage")
class MatchesNothing(StageConfig):
    llm: Literal["frozen", "lora", "full"] | None = "full"
    pieces: list[str] | None = Field(["mine.*"])


@breaks("freezes", "stage")
class SaysFrozen(StageConfig):
    """Written down as frozen, read as full."""

    llm: Literal["frozen", "lora", "full"] | None = "frozen"

    def __getattribute__(self, name: str) -> Any:
        return "full" if name == "llm" else super().__getattribute__(name)


@breaks("resumes", "stage")
class AnotherRateEachTime(StageConfig):
    llm: Literal["frozen", "lora", "full"] | None = "full"

    def __getattribute__(self, name: str) -> Any:
        return random.SystemRandom().uniform(1e-3, 1e-2) if name == "lr" else super().__getattribute__(name)
