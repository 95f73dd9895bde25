"""Modules to inject and a tiny language model with them, for the tests of injection."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rrg.model.inject import Injection

IDS = torch.tensor([[1, 40, 41, 42, 43], [1, 50, 51, 52, 53]])


class Shift(nn.Module):
    """hidden + value, by study; `prepare` doubles the signal."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, width)

    def forward(self, hidden: Tensor, value: Tensor) -> Tensor:
        return hidden + torch.tanh(self.project(value)).unsqueeze(1)


class Prepared(NamedTuple):
    value: Tensor


class Doubled(Shift):
    def prepare(self, value: Tensor) -> Prepared:
        return Prepared(2 * value)


class Constant(nn.Module):
    """hidden · factor + term: doesn't commute with another of its kind."""

    def __init__(self, factor: float, term: float) -> None:
        super().__init__()
        self.factor, self.term = factor, term

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.factor + self.term


def decoder_layers(model: Any) -> nn.ModuleList:
    return model.get_decoder().layers


def inject(model: Any, cls: type[nn.Module] = Doubled, where: str = "post", layers: Any = None) -> Injection:
    injection = Injection(model, decoder_layers(model))
    torch.manual_seed(5)
    chosen = range(len(injection.layers)) if layers is None else layers
    injection.add("test.piece", {i: cls(24) for i in chosen}, where)
    return injection


def loss_and_gradients(model: Any, injection: Injection, value: Tensor, ids: Tensor = IDS) -> list[Tensor]:
    model.zero_grad()
    value = value.clone().requires_grad_()
    injection.prepare({"test.piece": {"value": value}})
    loss = model(ids, labels=ids).loss
    loss.backward()
    own = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return [loss.detach(), value.grad, *own]
